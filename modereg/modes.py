"""Modes as a user handles them: codes with a name, merged, dropped or favoured, and chosen.

A mode is a set of codes that show one behaviour: a single one, until it is merged with others.
Names stand in an adapter's ``extra``, the sets in its q, and how often each code is drawn in its
prior, so that whoever loads it (fine-tuning, :class:`~modereg.commanding.CommandedPolicy`) does as
was said.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from modereg.checkpoints import Adapter
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.priors import CategoricalPrior
from modereg.suggestions import with_suggestion

__all__ = ["NAMES", "Mode", "ModeSelector", "edit_modes", "find_mode", "modes_of"]

NAMES = "names"
"""Entry of an adapter's ``extra``: a code of each mode that has a name, by the name."""


@dataclass(frozen=True)
class Mode:
    """A behaviour that codes command.

    Attributes:
        name: given by a user, else the number of its first code.
        codes: the codes that show it, in ascending order.
        weights: p(z) of each; all 0 once it is dropped.
    """

    name: str
    codes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def share(self) -> float:
        """Probability with which it is drawn."""
        return sum(self.weights)

    @property
    def code(self) -> int:
        """The code that is drawn most of its codes, the first of several."""
        return self.codes[self.weights.index(max(self.weights))]

    def draw(self, batch_size: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Draw a code of it for each episode from torch's global generator.

        Args:
            batch_size: B.
            device: where the codes go.

        Returns:
            ``[*B]`` int64.

        Raises:
            ConfigurationError: if it was dropped.
        """
        weights = torch.tensor(_allowed(self).weights, dtype=torch.float64)
        drawn = CategoricalPrior(weights / weights.sum()).sample(torch.Size(batch_size))
        return drawn.new_tensor(self.codes)[drawn].to(device or drawn.device)


def modes_of(adapter: Adapter) -> tuple[Mode, ...]:
    """Return the modes of an adapter by their first codes; dropped ones have a share of 0.

    Raises:
        ConfigurationError: if its codes are not discrete.
        CheckpointError: if its names are not of its codes.
    """
    prior = _discrete(adapter)
    sets = {codes[0]: codes for codes in _merged(adapter)}
    later = {code for codes in sets.values() for code in codes[1:]}
    names = _names(adapter, prior.num_codes)
    probs = prior.probs.tolist()
    modes = []
    for first in (code for code in range(prior.num_codes) if code not in later):
        codes = sets.get(first, (first,))
        name = next((names[code] for code in codes if code in names), str(first))
        modes.append(Mode(name, codes, tuple(probs[code] for code in codes)))
    return tuple(modes)


def find_mode(modes: Iterable[Mode], which: str | int) -> Mode:
    """Return the mode of a name, or the one that a code is of.

    Args:
        modes: of :func:`modes_of`.
        which: a name, or the number of a code, as text or not.

    Raises:
        ConfigurationError: if there is none.
    """
    known = tuple(modes)
    for mode in known:
        if which == mode.name or str(which) in map(str, mode.codes):
            return mode
    names = [mode.name for mode in known]
    words = [name for name in names if not name.isdecimal()]
    sentence = f"expected one of the modes {', '.join(names)}, got {which!r}"
    raise ConfigurationError(with_suggestion(sentence, str(which), words))


def edit_modes(
    adapter: Adapter,
    *,
    names: Mapping[str | int, str] | None = None,
    merge: Sequence[Sequence[str | int]] = (),
    drop: Sequence[str | int] = (),
    favour: Mapping[str | int, float] | None = None,
) -> Adapter:
    """Return an adapter with other modes: named, then merged, dropped and favoured, in this order.

    Modes are given by name, new ones included, or by the number of a code. The steering policy is
    shared; prior and q are copies.

    Args:
        adapter: of discrete codes.
        names: new name of each mode.
        merge: modes that become one each: q adds their probabilities and the prior their weights;
            a draw of it draws one of its codes. It has the name of the first that has one.
        drop: modes that are never drawn again.
        favour: how many times as often as before each is drawn beside the others.

    Raises:
        ConfigurationError: if there is no such mode, a name is a number or is taken, a mode is
            merged with itself, q is no classifier that could be merged, or nothing would be left to
            draw.
    """
    modes = list(modes_of(adapter))
    for which, name in (names or {}).items():
        _replace(modes, [find_mode(modes, which)], name=_checked_name(name, which, modes))
    for group in merge:
        _merge(modes, group)
    for which in drop:
        mode = find_mode(modes, which)
        _replace(modes, [mode], weights=(0.0,) * len(mode.codes))
    for which, factor in (favour or {}).items():
        mode = _allowed(find_mode(modes, which))
        if not 0.0 < factor < float("inf"):
            raise ConfigurationError(
                f"expected a positive factor to favour {mode.name!r} by, got {factor}; drop a mode "
                "that is not to be drawn"
            )
        _replace(modes, [mode], weights=tuple(factor * weight for weight in mode.weights))
    return _with(adapter, modes)


def _with(adapter: Adapter, modes: Sequence[Mode]) -> Adapter:
    """Return a copy of an adapter whose prior, q and names say these modes."""
    prior = _discrete(adapter)
    probs = torch.zeros_like(prior.probs)
    for mode in modes:
        probs[list(mode.codes)] = probs.new_tensor(mode.weights)
    if not float(probs.sum()) > 0.0:
        raise ConfigurationError(
            "expected a mode that is left to draw, got all of them dropped; leave one out of drop"
        )
    merged = [mode.codes for mode in modes if len(mode.codes) > 1]
    estimator, prior = copy.deepcopy(adapter.estimator), copy.deepcopy(prior)
    if estimator is not None and isinstance(estimator.prior, CategoricalPrior):
        prior = estimator.prior
    prior.weigh(probs / probs.sum())
    if isinstance(estimator, CategoricalMI):
        estimator.merge(merged)
    elif merged:
        raise ConfigurationError(
            "expected an adapter with a classifier of codes, whose probabilities can be added, to "
            f"merge modes, got one with {'none' if estimator is None else type(estimator).__name__}"
        )
    named = {mode.name: mode.codes[0] for mode in modes if not mode.name.isdecimal()}
    extra = {name: value for name, value in adapter.extra.items() if name != NAMES}
    extra |= {NAMES: named} if named else {}
    return replace(adapter, estimator=estimator, prior=prior, extra=extra, digest="")


def _merge(modes: list[Mode], group: Sequence[str | int]) -> None:
    """Make one mode of several, in place."""
    parts = [find_mode(modes, which) for which in group]
    if len(parts) < 2 or len(set(parts)) < len(parts):
        raise ConfigurationError(
            "expected two or more different modes to merge, got "
            f"{', '.join(repr(str(which)) for which in group)}"
        )
    weights = {code: weight for mode in parts for code, weight in zip(mode.codes, mode.weights)}
    codes = tuple(sorted(weights))
    named = (mode.name for mode in parts if not mode.name.isdecimal())
    name = next(named, str(codes[0]))
    _replace(modes, parts, name, codes, tuple(weights[code] for code in codes))


def _replace(modes: list[Mode], old: Sequence[Mode], *values: Any, **changes: Any) -> None:
    """Put a mode in the place of some, the first of them changed."""
    place = modes.index(old[0])
    modes[place] = Mode(*values) if values else replace(old[0], **changes)
    for mode in old[1:]:
        modes.remove(mode)


def _checked_name(name: str, which: str | int, modes: Sequence[Mode]) -> str:
    if not name or name.isdecimal() or not name.isprintable() or name != name.strip():
        raise ConfigurationError(
            f"expected a word to name mode {which} by, got {name!r}; a number stands for a code"
        )
    if any(mode.name == name for mode in modes):
        raise ConfigurationError(
            f"expected another name for mode {which} than {name!r}, which one has already; merge "
            "modes that are the same"
        )
    return name


def _allowed(mode: Mode) -> Mode:
    if mode.share > 0.0:
        return mode
    raise ConfigurationError(
        f"expected a mode that may be drawn, got {mode.name!r}, which was dropped; take the "
        "adapter from before"
    )


def _discrete(adapter: Adapter) -> CategoricalPrior:
    if isinstance(adapter.prior, CategoricalPrior):
        return adapter.prior
    raise ConfigurationError(
        f"expected an adapter of discrete codes, got one of {adapter.prior!r}, which has no modes "
        "to name"
    )


def _merged(adapter: Adapter) -> tuple[tuple[int, ...], ...]:
    return adapter.estimator.merged if isinstance(adapter.estimator, CategoricalMI) else ()


def _names(adapter: Adapter, num_codes: int) -> dict[int, str]:
    """Return the names by their codes."""
    names = adapter.extra.get(NAMES, {})
    if not isinstance(names, dict) or any(code not in range(num_codes) for code in names.values()):
        raise CheckpointError(
            f"expected names of codes in [0, {num_codes}), got {names!r}; save the adapter again"
        )
    return {code: name for name, code in names.items()}


class ModeSelector:
    r"""Chooses which mode to try, by the success of each so far: a bandit over modes.

    The success of a mode has a Beta posterior, :math:`\mathrm{Beta}(a + n_1, b + n_0)` after
    :math:`n_1` successes and :math:`n_0` failures. In an episode each mode is tried once at most:
    where a way is blocked, the next is another::

        selector = ModeSelector(policy.modes)
        for mode in selector.episode(tries=3):
            success = play(policy, mode.code)
            selector.update(mode, success)
            if success: break

    Args:
        modes: what may be chosen, such as ``CommandedPolicy.modes``; dropped ones are left out.
        strategy: ``"thompson"`` takes the mode with the largest draw from its posterior (Thompson,
            1933; Chapelle and Li, 2011); ``"ucb"`` the one with the largest quantile
            :math:`1 - 1 / (t + 2)` of it, t the tries so far (Bayes-UCB, Kaufmann et al., 2012).
        prior: a and b.
        seed: of the selector's own generator.

    Attributes:
        modes: those that may be chosen.
        successes: of each, ``[M]`` float64.
        failures: of each, ``[M]`` float64.

    Raises:
        ConfigurationError: if there is no mode to choose, or an option is out of range.
    """

    def __init__(
        self,
        modes: Iterable[Mode],
        *,
        strategy: Literal["thompson", "ucb"] = "thompson",
        prior: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ) -> None:
        self.modes = tuple(mode for mode in modes if mode.share > 0.0)
        if not self.modes or strategy not in ("thompson", "ucb") or not min(prior) > 0.0:
            raise ConfigurationError(
                "expected modes to choose between, a strategy of 'thompson' or 'ucb' and a "
                f"positive prior, got {len(self.modes)} modes, {strategy!r} and {prior}"
            )
        self.strategy, self.prior = strategy, prior
        self.successes, self.failures = np.zeros((2, len(self.modes)))
        self._generator = np.random.default_rng(seed)

    @property
    def means(self) -> np.ndarray:
        """Posterior mean of the success of each mode, ``[M]``."""
        a, b = self._posterior
        return a / (a + b)

    def episode(self, tries: int = 3) -> Iterator[Mode]:
        """Yield the modes to try in an episode, each chosen after the one before was updated.

        Args:
            tries: at most so many.
        """
        left = np.ones(len(self.modes), dtype=bool)
        for _ in range(min(tries, len(left))):
            best = int(np.where(left, self._scores(), -np.inf).argmax())
            left[best] = False
            yield self.modes[best]

    def update(self, mode: Mode | str | int, success: bool) -> None:
        """Count a try.

        Args:
            mode: that was tried, or its name or code.
            success: whether it succeeded.

        Raises:
            ConfigurationError: if it is none of those that may be chosen.
        """
        found = find_mode(self.modes, mode.name if isinstance(mode, Mode) else mode)
        counts = self.successes if success else self.failures
        counts[self.modes.index(found)] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return counts by name and the generator's state: lists, numbers and strings alone."""
        return {
            "modes": [mode.name for mode in self.modes],
            "successes": self.successes.tolist(),
            "failures": self.failures.tolist(),
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`.

        Raises:
            ConfigurationError: if it is of other modes.
        """
        names = [mode.name for mode in self.modes]
        if state["modes"] != names:
            raise ConfigurationError(
                f"expected the state of a selector between {names}, got one between "
                f"{state['modes']}"
            )
        self.successes = np.array(state["successes"], float)
        self.failures = np.array(state["failures"], float)
        self._generator.bit_generator.state = state["generator"]

    @property
    def _posterior(self) -> tuple[np.ndarray, np.ndarray]:
        return self.prior[0] + self.successes, self.prior[1] + self.failures

    def _scores(self) -> np.ndarray:
        a, b = self._posterior
        if self.strategy == "thompson":
            return self._generator.beta(a, b)
        tried = self.successes.sum() + self.failures.sum()
        return betaincinv(a, b, 1.0 - 1.0 / (tried + 2.0))
