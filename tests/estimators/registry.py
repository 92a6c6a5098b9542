"""Every estimator, small, and what each of them claims."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from tensordict import NestedKey
from torch import Tensor, nn

from modereg.estimators import (
    LSD,
    METRA,
    CategoricalMI,
    ContrastiveMI,
    GaussianMI,
    RewardEstimator,
    VonMisesFisherMI,
)
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, NormalPrior, Prior, SphericalPrior
from modereg.testing.strategies import priors

__all__ = ["CASES", "LATENT", "SHAPES", "Case", "given_scores", "named"]

SHAPES: dict[NestedKey, tuple[int, ...]] = {("agent", "state"): (3,), "action": (2,)}
LATENT: NestedKey = ("agent", "code")
_WIDTH = 8


@dataclass(frozen=True)
class Case:
    """An estimator: how to make it for a prior, and what it claims.

    ``posterior``: p(z) e^log_ratio is a distribution over codes. ``bound``: it never reports more
    than I(Z; S). ``idle``: parameters without a gradient.
    """

    make: Callable[[Prior], RewardEstimator]
    priors: st.SearchStrategy[Prior]
    discrete: bool = True
    posterior: bool = False
    bound: bool = True
    idle: frozenset[str] = frozenset()

    def build(self, prior: Prior, seed: int) -> RewardEstimator:
        """Make the estimator with the parameters of a seed."""
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed is many times slower
        return self.make(prior)


def _network(outputs: int) -> InputNoise:
    return InputNoise(MLP(5, outputs, (_WIDTH,)), 0.1)


_KEYS = {"in_keys": list(SHAPES), "latent_key": LATENT}
_IDLE = frozenset({"network.module.network.layers.2.bias"})
_DISCRETE = priors(2, 5)

CASES: dict[str, Case] = {
    "categorical": Case(
        lambda prior: CategoricalMI(_network(prior.num_codes), prior, **_KEYS),
        _DISCRETE,
        posterior=True,
    ),
    "contrastive": Case(
        lambda prior: ContrastiveMI(_network(_WIDTH), prior, width=_WIDTH, num_samples=16, **_KEYS),
        _DISCRETE,
    ),
    "contrastive_inner": Case(
        lambda prior: ContrastiveMI(
            _network(_WIDTH), prior, width=_WIDTH, num_samples=16, temperature=None, **_KEYS
        ),
        _DISCRETE,
    ),
    "contrastive_continuous": Case(
        lambda prior: ContrastiveMI(_network(_WIDTH), prior, width=_WIDTH, num_samples=16, **_KEYS),
        st.sampled_from([NormalPrior(1), SphericalPrior(2)]),
        discrete=False,
    ),
    "gaussian": Case(
        lambda prior: GaussianMI(_network(2 * prior.feature_dim), prior, **_KEYS),
        st.just(NormalPrior(1)),
        discrete=False,
        posterior=True,
    ),
    "von_mises_fisher": Case(
        lambda prior: VonMisesFisherMI(_network(prior.feature_dim + 1), prior, **_KEYS),
        st.just(SphericalPrior(2)),
        discrete=False,
        posterior=True,
    ),
    "metra": Case(
        lambda prior: METRA(_network(prior.feature_dim), prior, **_KEYS),
        _DISCRETE,
        bound=False,
        idle=_IDLE,
    ),
    "lsd": Case(
        lambda prior: LSD(_network(prior.feature_dim), prior, **_KEYS),
        _DISCRETE,
        bound=False,
        idle=_IDLE,
    ),
    "lsd_continuous": Case(
        lambda prior: LSD(_network(prior.feature_dim), prior, **_KEYS),
        st.sampled_from([NormalPrior(1), SphericalPrior(2)]),
        discrete=False,
        bound=False,
        idle=_IDLE,
    ),
}


def named(
    *, discrete: bool | None = None, posterior: bool = False, bound: bool = False
) -> list[str]:
    """Return the names of those that claim all of this."""
    return [
        name
        for name, case in CASES.items()
        if (discrete is None or case.discrete == discrete)
        and (case.posterior or not posterior)
        and (case.bound or not bound)
    ]


# --- estimators whose scores are given, for exact expectations over a table of states and codes


class _Given(nn.Module):
    """Takes its input for its output."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores


def _contrastive(prior: CategoricalPrior, num_samples: int) -> ContrastiveMI:
    table = nn.Linear(prior.num_codes, prior.num_codes, bias=False)
    nn.init.eye_(table.weight)
    return ContrastiveMI(
        _Given(),
        prior,
        code_network=table,
        width=prior.num_codes,
        num_samples=num_samples,
        temperature=None,
    )


def _contrastive_value(num_samples: int, prior: CategoricalPrior, latent: Tensor) -> Tensor:
    """Return what a perfect critic is paid, log N / (1 + (N - 1) p(z)), ``[*B]``."""
    return math.log(num_samples) - torch.log1p((num_samples - 1) * prior.probs[latent])


given_scores: dict[
    str,
    tuple[
        Callable[[CategoricalPrior], RewardEstimator],
        Callable[[CategoricalPrior, Tensor], Tensor],
    ],
] = {
    "categorical": (
        lambda prior: CategoricalMI(_Given(), prior),
        lambda prior, latent: -prior.log_probs[latent],
    ),
    "contrastive": (partial(_contrastive, num_samples=64), partial(_contrastive_value, 64)),
    "contrastive_pair": (partial(_contrastive, num_samples=2), partial(_contrastive_value, 2)),
}
"""How to make each from a prior, reading scores ``[*B, K]`` as the history; its largest reward."""
