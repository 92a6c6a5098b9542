"""How a policy's chunks are played and what is seen of an episode: one value, read by everything.

A task makes a layout, a policy narrows it (:meth:`Layout.for_policy`), a user overrides it once
(``dataclasses.replace``). The steered environment carries it, adapters save it, and loading one
beside another layout is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError

if TYPE_CHECKING:
    from tensordict import NestedKey
    from torch import Tensor

    from modereg.policies import GenerativePolicy

__all__ = ["Layout"]

TimeLimit = Literal["terminates", "truncates"]
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of chunks, episodes and features.

    Fields that are None are taken from the policy by :meth:`for_policy`; what needs one before says
    so.

    Attributes:
        max_steps: environment steps of the longest episode.
        execute: actions of a chunk that are played, open loop; None plays all from ``offset`` on.
        offset: first played action of a chunk: ``observation_steps - 1`` for policies in the manner
            of Diffusion Policy, whose chunks begin at the oldest observation.
        horizon: actions H in a chunk.
        gamma: discount of one environment step, in [0, 1].
        time_limit: whether running out of steps ends the episode for good (``"terminates"``:
            the elapsed time is then among what is steered by), or cuts it (``"truncates"``: the
            value of the last state counts).
        observation_steps: environment steps S that each observation of the policy covers.
        steering_keys: entries that steering policy and critic read.
        feature_keys: entries whose history the discoverer sees, in common physical units.
        feature_dims: dimensions of them that are kept, side by side; None keeps all.
        noise_basis: orthonormal columns ``[prod(noise_shape), k]`` of the subspace in which noise
            is steered, such as :func:`~modereg.noise_bases.response_basis` finds; None steers all
            of it.

    Raises:
        ConfigurationError: for an option out of range.
        ShapeError: if the played actions do not fit the chunk.
    """

    max_steps: int
    execute: int | None = None
    offset: int = 0
    horizon: int | None = None
    gamma: float = 0.999
    time_limit: TimeLimit = "truncates"
    observation_steps: int | None = None
    steering_keys: tuple[NestedKey, ...] | None = None
    feature_keys: tuple[NestedKey, ...] | None = None
    feature_dims: tuple[int, ...] | None = None
    noise_basis: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("steering_keys", "feature_keys", "feature_dims"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _as_tuple(value))
        self._check()

    def _check(self) -> None:
        for name, least in (("max_steps", 1), ("execute", 1), ("offset", 0), ("horizon", 1)):
            _check_count(name, getattr(self, name), least)
        _check_count("observation_steps", self.observation_steps, 1)
        if not isinstance(self.gamma, int | float) or not 0.0 <= self.gamma <= 1.0:
            raise ConfigurationError(f"expected a discount in [0, 1], got gamma={self.gamma!r}")
        if self.time_limit not in ("terminates", "truncates"):
            raise ConfigurationError(
                f"expected time_limit 'terminates' or 'truncates', got {self.time_limit!r}"
            )
        for name in ("steering_keys", "feature_keys", "feature_dims"):
            _check_entries(name, getattr(self, name))
        _check_basis(self.noise_basis)
        played = self.offset + (self.execute or 1)
        if self.horizon is not None and self.horizon < played:
            raise ShapeError(
                f"expected chunks of at least offset + execute = {played} actions, got a horizon "
                f"of {self.horizon}; lower execute or offset"
            )

    # --- what a policy decides

    def for_policy(self, policy: GenerativePolicy) -> Layout:
        """Return the layout with nothing left open: a policy's horizon, steps and observations.

        Raises:
            ConfigurationError: if the layout was made for another number of observations.
            ShapeError: if the policy's chunks are shorter than what is played of them.
        """
        steps = policy.observation_steps
        if self.observation_steps not in (None, steps):
            raise ConfigurationError(
                f"expected a policy that reads {self.observation_steps} observations, as the "
                f"layout says, got {type(policy).__name__} that reads {steps}; leave "
                "observation_steps out"
            )
        horizon = policy.chunk_shape[0]
        played = self.offset + (self.execute or 1)
        if played > horizon:
            raise ShapeError(
                f"expected a policy whose chunks have at least {played} actions, of which "
                f"{self.offset} to {played - 1} are played, got {type(policy).__name__} with "
                f"{horizon}; lower execute or offset"
            )
        execute = horizon - self.offset if self.execute is None else self.execute
        narrowed = replace(self, horizon=horizon, execute=execute, observation_steps=steps)
        return narrowed.for_observations(policy.observation_keys)

    def for_observations(self, observed: Sequence[NestedKey]) -> Layout:
        """Return the layout with the entries that it leaves open: those that a policy reads.

        The elapsed time is steered by too where running out of it ends an episode for good.
        """
        steered = tuple(self.steering_keys or observed)
        if self.time_limit == "terminates" and keys.ELAPSED not in steered:
            steered = (*steered, keys.ELAPSED)
        seen = tuple(self.feature_keys or observed)
        return replace(self, steering_keys=steered, feature_keys=seen)

    # --- what follows from it

    @property
    def max_decisions(self) -> int:
        """Chunk decisions of the longest episode, ``ceil(max_steps / execute)``."""
        return -(-self.max_steps // self.played)

    @property
    def chunk_length(self) -> int:
        """Actions in a chunk of policies made for it: the horizon, or what is played."""
        return self.horizon or self.offset + self.played

    @property
    def played(self) -> int:
        """Actions of a chunk that are played, known once a policy or a user has said it."""
        return self._known("execute", self.execute)

    @property
    def steered_by(self) -> list[NestedKey]:
        """Entries that steering policy and critic read."""
        return list(self._known("steering_keys", self.steering_keys))

    @property
    def features(self) -> list[NestedKey]:
        """Entries whose history the discoverer sees."""
        return list(self._known("feature_keys", self.feature_keys))

    def _known(self, name: str, value: Value | None) -> Value:
        if value is None:
            raise ConfigurationError(
                f"expected a layout that says {name}, got one that leaves it to the policy; call "
                "layout.for_policy(policy) first"
            )
        return value

    # --- comparing and saving

    def differences(self, other: Layout) -> list[str]:
        """Return in which fields two layouts differ, as sentences; the discount does not count.

        What was learned under one discount acts alike under another.
        """
        found = []
        for entry in fields(self):
            ours, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if entry.name == "noise_basis":
                if not _same_tensor(ours, theirs):
                    again = "another " if _shape(ours) == _shape(theirs) else ""
                    found.append(f"noise_basis {_shape(ours)} and {again}{_shape(theirs)}")
            elif entry.name != "gamma" and ours != theirs:
                found.append(f"{entry.name} {ours!r} and {theirs!r}")
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return self.gamma == other.gamma and not self.differences(other)

    def __hash__(self) -> int:
        return hash((self.max_steps, self.execute, self.offset, self.horizon, self.gamma))

    def to_config(self) -> dict[str, Any]:
        """Return it JSON-able, all but the basis, which is a tensor."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del values["noise_basis"]
        for name in ("steering_keys", "feature_keys"):
            if values[name] is not None:
                values[name] = [_write_key(key) for key in values[name]]
        if values["feature_dims"] is not None:
            values["feature_dims"] = list(values["feature_dims"])
        return values

    @classmethod
    def from_config(cls, config: dict[str, Any], noise_basis: Tensor | None = None) -> Layout:
        """Return what :meth:`to_config` wrote.

        Raises:
            ConfigurationError: if an entry is missing, unknown or of the wrong type.
        """
        known = {entry.name for entry in fields(cls)} - {"noise_basis"}
        if not isinstance(config, dict) or set(config) != known:
            got = sorted(config) if isinstance(config, dict) else type(config).__name__
            raise ConfigurationError(f"expected a layout's entries {sorted(known)}, got {got}")
        values = dict(config)
        for name in ("steering_keys", "feature_keys"):
            if values[name] is not None:
                values[name] = tuple(_read_key(key) for key in _as_tuple(values[name]))
        return cls(**values, noise_basis=noise_basis)


def _check_count(name: str, value: Any, least: int) -> None:
    if value is None and name != "max_steps":
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"expected {name} of at least {least}, got {value!r}")


def _check_entries(name: str, values: tuple[Any, ...] | None) -> None:
    if values == ():
        raise ConfigurationError(f"expected {name} of at least one entry, got none")
    for value in values or ():
        if name == "feature_dims":
            _check_count(name, value, 0)
        elif not _is_key(value):
            raise ConfigurationError(f"expected {name} of names of entries, got {value!r}")


def _is_key(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return bool(parts) and all(isinstance(part, str) for part in parts)


def _check_basis(basis: Any) -> None:
    if basis is not None and getattr(basis, "ndim", None) != 2:
        raise ShapeError(
            "expected noise_basis of shape [prod(noise_shape), k], or None, got "
            f"{tuple(basis.shape) if hasattr(basis, 'shape') else basis!r}"
        )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | int) else tuple(value)


def _write_key(key: NestedKey) -> str | list[str]:
    return list(key) if isinstance(key, tuple) else key


def _read_key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key  # what is no name is refused by the layout


def _same_tensor(ours: Tensor | None, theirs: Tensor | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return ours.shape == theirs.shape and bool((ours.cpu() == theirs.cpu()).all())


def _shape(basis: Tensor | None) -> str:
    return "None" if basis is None else f"of shape {tuple(basis.shape)}"
