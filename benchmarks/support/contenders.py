"""The estimators that ``mi_truth.py`` measures, each as a function of a task, a size and a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support.contender_networks import CodeCritic, EdgeCritic, features, state_network, tamed
from support.truths import Task
from tensordict import TensorDict
from torch import nn

from modereg.estimators import (
    CategoricalMI,
    ContrastiveMI,
    GaussianMI,
    RewardEstimator,
    VonMisesFisherMI,
)
from modereg.information import estimate_information, ksg_information, ross_information
from modereg.priors import NormalPrior, SphericalPrior

__all__ = ["CONTENDERS", "CONTRASTS", "Contender", "Measurement"]

CONTRASTS = 1024
"""N of InfoNCE: samples that a pair is told from, itself included."""

HELD_OUT = 20_000
"""Samples on which what was trained is read, where a sample is cheap to read."""

FEW = 2_000
"""The same, where each is compared with many others by a network."""


@dataclass(frozen=True)
class Measurement:
    """One estimate.

    Attributes:
        estimate: nats.
        deviation: standard error of the estimate over draws of what it was read on, nats.
        kl: E KL(p(z|s) || q(z|s)) of the q at hand over all states, nats.
    """

    estimate: float
    deviation: float = math.nan
    kl: float = math.nan


@dataclass(frozen=True)
class Contender:
    """An estimator and what it can take.

    Attributes:
        name: in the table.
        takes: whether it can take a task.
        measure: from a task, a number of samples and a seed.
        sizes: numbers of samples at which it is measured.
        is_bound: whether it stays below I(Z; S) in expectation.
    """

    name: str
    takes: Callable[[Task], bool]
    measure: Callable[[Task, int, int], Measurement]
    sizes: Callable[[Task], tuple[int, ...]]
    is_bound: bool


def read_critic(bound: str, effort: int) -> Callable[[Task, int, int], Measurement]:
    """Make the measurement of a critic that is trained by one of the bounds.

    Args:
        bound: see :func:`modereg.information.estimate_information`.
        effort: optimiser steps on an easy task; four times as many for more than 8 codes and for
            edges, eight times for more than 32 codes.
    """

    def measure(task: Task, size: int, seed: int) -> Measurement:
        latent, state = task.draw(size, seed)
        torch.manual_seed(seed)
        critic: Any = None
        if task.num_codes:
            critic = CodeCritic(task)
        elif task.edges:
            critic = EdgeCritic()
        hard = task.edges or (task.num_codes or 0) > 8
        held_out = FEW if isinstance(critic, EdgeCritic) else 5_000
        found = estimate_information(
            tamed(latent),
            tamed(state),
            bound=bound,
            critic=critic,
            hidden=(64, 64),
            steps=effort * (8 if (task.num_codes or 0) > 32 else 4 if hard else 1),
            batch_size=128,
            lr=(2e-2 if hard else 8e-2) if task.is_symbolic else 1e-2,
            held_out=min(0.2, held_out / size),
            chunk_size=CONTRASTS,
            seed=seed,
        )
        return Measurement(found.value, found.standard_error)

    return measure


def read_exact(task: Task, size: int, seed: int) -> Measurement:
    """Read the categorical bound with the exact posterior as q."""
    latent, state = task.draw(size, seed)
    ratio = task.posterior(state).log()  # log 0 where a code is impossible, which is never drawn
    data = TensorDict({"state": ratio, "latent": latent}, [size])
    estimator = CategoricalMI(nn.Identity(), task.num_codes, in_keys=["state"], latent_key="latent")
    return Measurement(*_read(estimator, data), kl=0.0)


def learn(
    make: Callable[[Task], RewardEstimator], steps: int, held_out: int = HELD_OUT
) -> Callable[[Task, int, int], Measurement]:
    """Make the measurement of an estimator that is trained, and read on fresh samples."""

    def measure(task: Task, size: int, seed: int) -> Measurement:
        torch.manual_seed(seed)
        estimator = make(task)
        latent, state = task.draw(size + held_out, seed)
        if task.to_prior is not None:
            latent = task.to_prior(latent).float()
        entries = {"state": features(task, state), "latent": latent}
        data = TensorDict(entries, [size + held_out])
        train(estimator, data[:size], steps, lr=3e-2 if task.is_symbolic else 5e-3)
        kl = _measured_kl(task, estimator)
        return Measurement(*_read(estimator, data[size:]), kl=kl)

    return measure


def train(estimator: RewardEstimator, data: TensorDict, steps: int, lr: float) -> None:
    """Train by Adam on batches of 256, the rate falling to 0 along a cosine."""
    optimizer = torch.optim.Adam(estimator.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = estimator.loss(data[torch.randint(len(data), (256,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _read(estimator: RewardEstimator, data: TensorDict) -> tuple[float, float]:
    ratio = estimator.log_ratio(data).double()
    return float(estimator.bound(data)), float(ratio.std() / len(ratio) ** 0.5)


@torch.no_grad()
def _measured_kl(task: Task, estimator: RewardEstimator) -> float:
    """Return E KL(p(z|s) || q(z|s)) over all states; NaN where q is no classifier of codes."""
    if not isinstance(estimator, CategoricalMI):
        return math.nan
    states, weights = task.states
    posterior = task.posterior(states)
    data = TensorDict({"state": features(task, states)}, [len(states)])
    log_q = estimator.log_prob(data).double()
    terms = torch.special.xlogy(posterior, posterior) - posterior * log_q
    return float((weights * terms.sum(-1)).sum())


def _categorical(task: Task) -> RewardEstimator:
    network = state_network(task, task.num_codes)
    return CategoricalMI(network, task.num_codes, in_keys=["state"], latent_key="latent")


def _gaussian(task: Task) -> RewardEstimator:
    dim = task.dims[0]
    network = state_network(task, 2 * dim)
    return GaussianMI(network, dim, in_keys=["state"], latent_key="latent")


def _von_mises_fisher(task: Task) -> RewardEstimator:
    network = state_network(task, 4)
    return VonMisesFisherMI(network, 3, in_keys=["state"], latent_key="latent")


def _contrastive(task: Task) -> RewardEstimator:
    prior: Any = task.num_codes or NormalPrior(task.dims[0])
    if is_sphere(task):
        prior = SphericalPrior(3)
    network = state_network(task, 32)
    options: dict[str, Any] = {"temperature": None, "num_samples": CONTRASTS // 4}
    return ContrastiveMI(network, prior, in_keys=["state"], latent_key="latent", **options)


def is_sphere(task: Task) -> bool:
    """Whether codes lie on a sphere."""
    return task.name.startswith("sphere")


def _neighbour_sizes(task: Task) -> tuple[int, ...]:
    return (500, 2_000, 5_000) if max(task.dims) > 5 else (500, 2_000, 10_000)


def _learned_sizes(_: Task) -> tuple[int, ...]:
    return (2_000, 20_000)


def _critics() -> list[Contender]:
    names = {"dv": True, "nwj": True, "mine": True, "smile": False, "js": True}
    others = [
        Contender(name, lambda _: True, read_critic(name, 100), lambda _: (2_000, 10_000), is_bound)
        for name, is_bound in names.items()
    ]
    info_nce = read_critic("info_nce", 200)
    return [*others, Contender("info_nce", lambda _: True, info_nce, _info_nce_sizes, True)]


def _info_nce_sizes(task: Task) -> tuple[int, ...]:
    codes = task.num_codes or 0
    return (400_000 if codes > 32 else 200_000 if codes > 16 else 100_000,)


def _has_codes(task: Task) -> bool:
    return task.num_codes is not None


def _is_continuous(task: Task) -> bool:
    return task.num_codes is None


CONTENDERS = [
    Contender(
        "ksg",
        _is_continuous,
        lambda task, size, seed: Measurement(ksg_information(*task.draw(size, seed))),
        _neighbour_sizes,
        False,
    ),
    Contender(
        "ksg_2",
        _is_continuous,
        lambda task, size, seed: Measurement(ksg_information(*task.draw(size, seed), algorithm=2)),
        _neighbour_sizes,
        False,
    ),
    Contender(
        "ross",
        _has_codes,
        lambda task, size, seed: Measurement(ross_information(*task.draw(size, seed))),
        _neighbour_sizes,
        False,
    ),
    Contender("categorical_exact", _has_codes, read_exact, lambda _: (2_000, 20_000), True),
    Contender("categorical", _has_codes, learn(_categorical, 500), _learned_sizes, True),
    Contender(
        "gaussian",
        lambda task: task.to_prior is not None and not is_sphere(task),
        learn(_gaussian, 300),
        _learned_sizes,
        True,
    ),
    Contender("von_mises_fisher", is_sphere, learn(_von_mises_fisher, 300), _learned_sizes, True),
    Contender(
        "contrastive",
        lambda task: _has_codes(task) or task.to_prior is not None,
        learn(_contrastive, 200, FEW),
        _learned_sizes,
        True,
    ),
    *_critics(),
]
