"""Whole episodes of a batched environment: what evaluation, clustering and imitation read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from modereg import keys
from modereg.devices import across_devices
from modereg.errors import ConfigurationError

__all__ = ["Episodes", "collect_episodes", "iterate_episodes"]

Policy = Callable[[TensorDictBase], TensorDictBase]

_ROWS = ("decisions", "valid", "final", "returns", "env_steps")
"""Fields of :class:`Episodes` with one row an episode."""


@dataclass
class Episodes:
    """N whole episodes of at most T decisions.

    Attributes:
        decisions: entries at each decision, ``[N, T]``; padding after the end.
        valid: ``[N, T]`` bool, False on padding.
        final: entries of the last ``next``, ``[N]``.
        returns: undiscounted return of each, ``[N]``.
        env_steps: environment steps of each, ``[N]`` int64.
        spent: environment steps that were taken in all, or since the part before: those that a row
            played after its last episode are counted too.
        clipped: mean share of clipped action components, 0 where nothing reports it.
    """

    decisions: TensorDict
    valid: Tensor
    final: TensorDict
    returns: Tensor
    env_steps: Tensor
    spent: int
    clipped: float

    def __len__(self) -> int:
        """Return N."""
        return len(self.valid)

    def __getitem__(self, chosen: slice | Tensor) -> Episodes:
        """Return some of them; what was spent and the clipped share stay those of all."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _ROWS})

    def to(self, device: torch.device | str) -> Episodes:
        """Return them on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _ROWS})

    def flat(self, episodes: Tensor | None = None) -> TensorDict:
        """Return the valid decisions of the episodes in a mask ``[N]``, or of all, ``[n]``."""
        if episodes is None:
            return self.decisions[self.valid]
        return self.decisions[self.valid & episodes.to(self.valid.device)[:, None]]

    def to_dict(self) -> dict[str, Any]:
        """Return them as a plain dictionary of tensors and numbers, for a checkpoint."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return values | {name: values[name].to_dict() for name in ("decisions", "final")}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Episodes:
        """Return what :meth:`to_dict` was called on."""
        size = values["valid"].shape
        decisions = TensorDict(values["decisions"], size)
        return Episodes(
            **values | {"decisions": decisions, "final": TensorDict(values["final"], size[:1])}
        )

    @staticmethod
    def cat(parts: Sequence[Episodes]) -> Episodes:
        """Join episodes along N."""
        weights = [float(part.env_steps.sum()) for part in parts]
        clipped = sum(p.clipped * w for p, w in zip(parts, weights, strict=True))
        return Episodes(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _ROWS},
            spent=sum(part.spent for part in parts),
            clipped=clipped / max(sum(weights), 1.0),
        )


def collect_episodes(
    env: EnvBase,
    num_episodes: int,
    *,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Episodes:
    """Roll out whole episodes: the parts of :func:`iterate_episodes`, joined.

    Args:
        env: as there.
        num_episodes: N.
        progress: called with the number of episodes after each batch.
        options: of :func:`iterate_episodes`.

    Raises:
        ConfigurationError: as there.
    """
    parts, done = [], 0
    for part in iterate_episodes(env, num_episodes, **options):
        parts.append(part)
        done += len(part)
        if progress is not None:
            progress(done)
    return Episodes.cat(parts)


def iterate_episodes(
    env: EnvBase,
    num_episodes: int,
    *,
    max_decisions: int | None = None,
    policy: Policy | None = None,
    keep: Sequence[NestedKey] = (),
    final: Sequence[NestedKey] = (),
    deterministic: bool = False,
    cut: bool = False,
) -> Iterator[Episodes]:
    """Roll out whole episodes from fresh resets, and yield them turn by turn.

    Each of the B rows plays its share of the N episodes, one after the other, all of which count:
    taking those that end first would over-represent short ones. Episode k is number k // B of row
    k % B, and a part holds one of each row, as soon as the slowest has ended it. The environment is
    busy until the last part has come.

    An environment whose finished rows stay as they are (see
    :class:`~modereg.transforms.ActionChunk`) is reset as a whole, once all have finished; so is any
    whose episodes may be cut.

    Args:
        env: batched environment ``[B]`` with decisions as steps.
        num_episodes: N; the last part is shortened to it.
        max_decisions: T, decisions of the longest episode; None reads ``env.layout``.
        policy: writes the action, on whatever device it lives; None takes random actions of the
            spec, which in a steered environment are N(0, I) and thus the base policy.
        keep: entries of each decision to keep.
        final: entries of the last ``next`` to keep.
        deterministic: whether to act by the policy's mode instead of sampling.
        cut: whether a longer episode ends at T, its final entries being the last, instead of being
            an error.

    Raises:
        ConfigurationError: if the environment is not batched along one dimension or is empty, if
            N < 1 or T < 1, if T is not known, or if an episode outlives T and none may be cut.
    """
    if len(env.batch_size) != 1 or min(*env.batch_size, num_episodes) < 1:
        raise ConfigurationError(
            f"expected an environment of batch [B] and at least one episode, got batch "
            f"{tuple(env.batch_size)} and {num_episodes} episodes"
        )
    length = _longest(env) if max_decisions is None else max_decisions
    if length < 1:
        raise ConfigurationError(f"expected max_decisions of at least 1, got {length}")
    how = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    options = {"max_decisions": length, "keep": keep, "final": final, "how": how, "cut": cut}
    play = partial(_play, env, across_devices(policy or env.rand_action), **options)
    together = cut or _finished_rows_stay(env)
    return _parts(play, num_episodes, env.batch_size[0] if together else num_episodes)


def _parts(
    play: Callable[[int], Iterator[Episodes]], num_episodes: int, most: int
) -> Iterator[Episodes]:
    """Yield the parts of plays of at most so many episodes."""
    for done in range(0, num_episodes, most):
        yield from play(min(most, num_episodes - done))


def _longest(env: EnvBase) -> int:
    layout = getattr(env, "layout", None)
    if layout is None:
        raise ConfigurationError(
            "expected max_decisions, the decisions of the longest episode, for an environment that "
            "carries no layout; give it, or make the environment by steer_env or wrap"
        )
    return layout.max_decisions


@torch.no_grad()
def _play(
    env: EnvBase,
    policy: Policy,
    num_episodes: int,
    *,
    max_decisions: int,
    keep: Sequence[NestedKey],
    final: Sequence[NestedKey],
    how: ExplorationType,
    cut: bool,
) -> Iterator[Episodes]:
    """Reset once and yield the episodes of each turn; those of every row where N < B, shortened."""
    stays = _finished_rows_stay(env)
    with set_exploration_type(how):  # an open iterator leaves it to its caller
        carrier = env.reset()
    quota = _quota(num_episodes, carrier.get("done").squeeze(-1))
    turn, age, spent, given = torch.zeros_like(quota), torch.zeros_like(quota), 0, 0
    turns: dict[int, _Turn] = defaultdict(_Turn)
    while given * len(quota) < num_episodes:
        with set_exploration_type(how):
            step, carrier = _step(env, policy(carrier), stays)
        ended, playing = step.get("next"), turn < quota
        done, last = ended.get("done").squeeze(-1), age + 1 == max_decisions
        if not cut:
            _check_ended(playing & last & ~done, max_decisions)
        record, over = _record(step, keep, env.reward_keys[0]), done | last
        spent += record.get("steps")[playing if stays else ...].sum()
        for number in turn[playing].unique().tolist():
            rows = playing & (turn == number)
            turns[number].add(rows, age, record)
            turns[number].end(rows & over, ended.select(*final))
        turn, age = turn + over, (age + 1).masked_fill(over, 0)
        while given in turns and bool((turn > given)[quota > given].all()):
            yield turns.pop(given).episodes(max_decisions, int(spent))[:num_episodes]
            given, spent = given + 1, 0


def _quota(num_episodes: int, like: Tensor) -> Tensor:
    """Return how many of the episodes each row plays, at least one, ``[B]``."""
    rows = torch.arange(len(like), device=like.device)
    return ((num_episodes - 1 - rows) // len(like) + 1).clamp_min(1)


def _step(
    env: EnvBase, carrier: TensorDictBase, stays: bool
) -> tuple[TensorDictBase, TensorDictBase]:
    """Return a transition, and the root after it, where finished rows begin anew or stay."""
    if not stays:
        return env.step_and_maybe_reset(carrier)
    transition = env.step(carrier)
    return transition, env.step_mdp(transition)


def _check_ended(on: Tensor, max_decisions: int) -> None:
    if bool(on.any()):
        rows = on.nonzero().squeeze(-1).tolist()
        raise ConfigurationError(
            f"expected every episode to end within max_decisions={max_decisions} decisions, got "
            f"{len(rows)} of {len(on)} that go on, in rows {rows[:8]}; give the decisions of "
            "the longest episode, or cut=True to end episodes there"
        )


def _record(step: TensorDictBase, keep: Sequence[NestedKey], reward_key: NestedKey) -> TensorDict:
    """Return kept entries, reward, environment steps and clipped share of a step, ``[B]``."""
    ended = step.get("next")
    reward = ended.get(reward_key)
    figures = {
        "reward": reward,
        "steps": ended.get(keys.STEPS, torch.ones_like(reward, dtype=torch.int64)),
        "clipped": ended.get(keys.CLIPPED, torch.zeros_like(reward)),
    }
    record = {name: value.squeeze(-1) for name, value in figures.items()}
    return TensorDict({**record, "kept": step.select(*keep)}, step.batch_size)


def _finished_rows_stay(env: EnvBase) -> bool:
    inner = env.base_env if isinstance(env, TransformedEnv) else env
    return bool(getattr(type(inner), "finished_rows_stay", False))


class _Turn:
    """The episodes that rows 0 to n - 1 play at the same turn, written as they are played."""

    def __init__(self) -> None:
        self._records: list[TensorDictBase] = []
        self._places: list[Tensor] = []  # row and decision of each record, [2, ...]
        self._finals: list[TensorDictBase] = []
        self._ended: list[Tensor] = []

    def add(self, playing: Tensor, age: Tensor, record: TensorDictBase) -> None:
        """Add a decision of the rows in a mask ``[B]``, the age-th of each row's episode."""
        rows = playing.nonzero().squeeze(-1)
        self._records.append(record[rows])
        self._places.append(torch.stack([rows, age[rows]]))

    def end(self, over: Tensor, final: TensorDictBase) -> None:
        """Add the final entries of the rows in a mask ``[B]``, whose episodes end here."""
        rows = over.nonzero().squeeze(-1)
        if len(rows):
            self._finals.append(final[rows])
            self._ended.append(rows)

    def episodes(self, length: int, spent: int) -> Episodes:
        """Return the episodes in the order of the rows, padded by any decision."""
        records = cast(TensorDict, torch.cat(self._records))
        rows, ages = torch.cat(self._places, 1)
        order = torch.cat(self._ended).argsort()
        index = rows.new_zeros(len(order), length)
        index[rows, ages] = torch.arange(len(rows), device=rows.device)
        valid = torch.zeros_like(index, dtype=torch.bool)
        valid[rows, ages] = True
        reward, steps = (records.get(name)[index] * valid for name in ("reward", "steps"))
        return Episodes(
            decisions=records.get("kept")[index],
            valid=valid,
            final=torch.cat(self._finals)[order],
            returns=reward.sum(1),
            env_steps=steps.sum(1),
            spent=spent,
            clipped=float(records.get("clipped").mean()),
        )
