"""Hypothesis strategies for priors, codes, logits and the tensordicts that an estimator reads.

They need hypothesis, which modereg itself does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from modereg import keys
from modereg.errors import MissingDependencyError
from modereg.priors import CategoricalPrior, Prior

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingDependencyError(
        "expected hypothesis for modereg.testing.strategies, and it is not installed; "
        "pip install hypothesis"
    ) from error

__all__ = ["batch_shapes", "codes", "features", "logits", "priors", "tensordicts"]

LogitKind = Literal["ordinary", "extreme", "one_hot", "masked"]
FeatureKind = Literal["ordinary", "wild", "zero"]

_SEEDS = st.integers(0, 2**31 - 1)
_SIZES: dict[str, float] = {"ordinary": 1.0, "wild": 1e4, "zero": 0.0}


def batch_shapes(max_dims: int = 2, max_side: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of batches: ``()``, ``(3,)``, ``(0,)``, ``(0, 2)``, ``(2, 3)`` and so on."""
    return st.lists(st.integers(0, max_side), max_size=max_dims).map(tuple)


@st.composite
def priors(
    draw: st.DrawFn, min_codes: int = 1, max_codes: int = 6, *, zeros: bool = True
) -> CategoricalPrior:
    """Priors over discrete codes: uniform and skewed, some of whose codes may never be drawn.

    Args:
        draw: given by hypothesis.
        min_codes: least number of codes K.
        max_codes: largest number of codes.
        zeros: whether codes may have probability 0; at least one has not.
    """
    number = draw(st.integers(min_codes, max_codes))
    weight = st.integers(0 if zeros else 1, 20)
    weights = draw(st.lists(weight, min_size=number, max_size=number).filter(any))
    return CategoricalPrior(torch.tensor(weights, dtype=torch.float64) / sum(weights))


@st.composite
def codes(draw: st.DrawFn, prior: Prior, batch: Sequence[int] = ()) -> Tensor:
    """Codes of a prior, ``[*B]`` int64 of positive probability, or ``[*B, D]`` drawn from it."""
    if not isinstance(prior, CategoricalPrior):
        return _seeded(draw(_SEEDS), lambda: prior.sample(torch.Size(batch)))
    support, number = prior.probs.nonzero().squeeze(-1).tolist(), math.prod(batch)
    drawn = draw(st.lists(st.sampled_from(support), min_size=number, max_size=number))
    return torch.tensor(drawn, dtype=torch.int64).reshape(tuple(batch))


@st.composite
def logits(
    draw: st.DrawFn,
    num_codes: int,
    batch: Sequence[int] = (),
    *,
    kinds: Sequence[LogitKind] = ("ordinary", "extreme", "one_hot"),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logits of a classifier, ``[*B, K]``.

    Args:
        draw: given by hypothesis.
        num_codes: K.
        batch: B.
        kinds: which to choose from: ``"ordinary"``, of size one; ``"extreme"``, plus and minus 1e4;
            ``"one_hot"``, 1e4 for one code and 0 for the others; ``"masked"``, minus infinity for
            some codes of each row, never for all.
        dtype: type of the logits.
    """
    kind, seed = draw(st.sampled_from(list(kinds))), draw(_SEEDS)
    return _seeded(seed, lambda: _logits(kind, (*batch, num_codes))).to(dtype)


def _logits(kind: LogitKind, shape: tuple[int, ...]) -> Tensor:
    values = torch.randn(shape)
    largest = torch.zeros(shape).scatter(-1, values.argmax(-1, keepdim=True), 1.0)
    if kind == "extreme":
        return 1e4 * values.sign()
    if kind == "one_hot":
        return 1e4 * largest
    if kind == "masked":
        return values.masked_fill((torch.rand(shape) < 0.5) & (largest == 0), -math.inf)
    return values


@st.composite
def features(
    draw: st.DrawFn,
    shape: Sequence[int],
    batch: Sequence[int] = (),
    *,
    kinds: Sequence[FeatureKind] = ("ordinary", "wild", "zero"),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Features of a state, ``[*B, *E]``: of size one, of size 1e4, or all zero."""
    kind, seed = draw(st.sampled_from(list(kinds))), draw(_SEEDS)
    return _features(kind, seed, (*batch, *shape), dtype)


def _features(kind: FeatureKind, seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _SIZES[kind] * _seeded(seed, lambda: torch.randn(shape)).to(dtype)


@st.composite
def tensordicts(
    draw: st.DrawFn,
    shapes: Mapping[NestedKey, Sequence[int]],
    prior: Prior | None = None,
    *,
    latent_key: NestedKey = keys.LATENT,
    batches: st.SearchStrategy[tuple[int, ...]] | None = None,
    kinds: Sequence[FeatureKind] = ("ordinary", "wild", "zero"),
    transitions: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TensorDict:
    """Tensordicts as an estimator reads them, ``[*B]``; nested keys allowed.

    Args:
        draw: given by hypothesis.
        shapes: the shape E of each feature, by its key.
        prior: p(z), from which the codes come; None leaves them out.
        latent_key: entry of the codes.
        batches: shapes of the batch; None takes :func:`batch_shapes`.
        kinds: see :func:`features`.
        transitions: whether the features stand in ``next`` too.
        dtype: type of the features.
    """
    batch = draw(batches if batches is not None else batch_shapes())
    data, seed = TensorDict({}, list(batch)), draw(_SEEDS)
    places: list[tuple[str, ...]] = [(), ("next",)] if transitions else [()]
    for key, shape in shapes.items():
        name = key if isinstance(key, tuple) else (key,)
        for place in places:
            kind, seed = draw(st.sampled_from(list(kinds))), seed + 1  # no two entries are alike
            value = _features(kind, seed, (*batch, *shape), dtype)
            data.set((*place, *name), value)
    return data if prior is None else data.set(latent_key, draw(codes(prior, batch)))


def _seeded(seed: int, function: Callable[[], Any]) -> Any:
    """Call a function under a seed; ``torch.manual_seed`` would be many times slower here."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return function()
    finally:
        torch.random.set_rng_state(state)
