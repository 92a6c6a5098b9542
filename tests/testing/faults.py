"""What a planted fault is, and the right originals that the faults were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.estimators import CategoricalMI, GaussianMI, RewardEstimator
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior, Prior
from modereg.reading import require
from modereg.testing.estimators import check_estimator

__all__ = [
    "CODES",
    "SKEWED",
    "Fault",
    "check",
    "classifier",
    "codes",
    "estimator_fault",
    "gaussian",
    "history",
]

FEATURES, CODES = 6, 4
SKEWED = CategoricalPrior(torch.tensor([0.55, 0.25, 0.15, 0.05]))


@dataclass(frozen=True)
class Fault:
    """Something wrong: ``run`` must raise an AssertionError whose message matches ``sentence``."""

    name: str
    run: Callable[[], None]
    check: str
    sentence: str


def classifier(
    kind: type[CategoricalMI] = CategoricalMI, prior: int | Prior | Callable[[], Prior] = CODES
) -> CategoricalMI:
    """Make a small classifier; a prior with parameters of its own is made for each."""
    prior = prior() if callable(prior) and not isinstance(prior, Prior) else prior
    return kind(InputNoise(MLP(FEATURES, CODES, (16,)), 0.05), prior)


def codes(tensordict: TensorDictBase) -> Tensor:
    return require(tensordict, "latent", "the estimator")


def history(tensordict: TensorDictBase) -> Tensor:
    return require(tensordict, "history", "the estimator")


def check(make: Callable[[], RewardEstimator], **options: object) -> None:
    """Run the battery with a budget that the right estimators pass."""
    check_estimator(make, FEATURES, rows=1024, steps=120, **options)


def gaussian(kind: type[GaussianMI] = GaussianMI) -> GaussianMI:
    """Make a small estimator of continuous codes."""
    return kind(InputNoise(MLP(FEATURES, 4, (16,)), 0.05), 2)


def estimator_fault(
    kind: type[RewardEstimator],
    make: Callable[..., RewardEstimator],
    sentence: str,
    **options: bool,
) -> Fault:
    """Plant a kind of estimator that the battery has to notice."""
    run = partial(check, partial(make, kind), **options)
    return Fault(kind.__name__, run, "check_estimator", sentence)
