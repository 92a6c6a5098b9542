"""The battery for discoverers: ours pass it, and each fault is found by its sentence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg.discovery import ClusterModeDiscoverer, ModeDiscoverer, VariationalModeDiscoverer
from modereg.errors import NonFiniteError
from modereg.estimators import (
    METRA,
    CategoricalMI,
    GaussianMI,
    NetworkEstimator,
    RewardEstimator,
    VonMisesFisherMI,
    check_support,
)
from modereg.networks import MLP, InputNoise
from modereg.priors import NormalPrior
from modereg.reading import require
from modereg.testing import check_discoverer

FEATURES, CODES = 6, 4
UNEQUAL = torch.distributions.Categorical(torch.tensor([0.1, 0.5, 0.0, 0.4]))


def small_network(outputs: int) -> InputNoise:
    return InputNoise(MLP(FEATURES, outputs, (32,)), 0.05)


def learner(estimator: RewardEstimator) -> VariationalModeDiscoverer:
    return VariationalModeDiscoverer(estimator, lr=1e-2, batch_size=128)


def variational(prior: Any = CODES, **options: Any) -> VariationalModeDiscoverer:
    return learner(CategoricalMI(small_network(CODES), prior, **options))


def cluster(**options: Any) -> ClusterModeDiscoverer:
    return ClusterModeDiscoverer(FEATURES, CODES, hidden=(32,), steps=50, **options)


NESTED: dict[NestedKey, tuple[int, ...]] = {("a", "x"): (2,), ("a", "y"): (2, 2)}
OURS: dict[str, tuple[Callable[[], ModeDiscoverer], Any]] = {
    "variational": (variational, FEATURES),
    "variational_nested": (
        partial(variational, prior=UNEQUAL, in_keys=list(NESTED), latent_key=("a", "z")),
        NESTED,
    ),
    "variational_root": (
        partial(variational, in_keys=["state", "action"], source="root"),
        {"state": (4,), "action": (2,)},
    ),
    "variational_transitions": (lambda: learner(METRA(small_network(4), CODES)), FEATURES),
    "variational_continuous": (lambda: learner(GaussianMI(small_network(4), 2)), FEATURES),
    "variational_sphere": (lambda: learner(VonMisesFisherMI(small_network(4), 3)), FEATURES),
    "cluster": (cluster, FEATURES),
    "cluster_nested": (
        partial(cluster, feature_key=("a", "x"), latent_key=("a", "z"), history_length=3),
        FEATURES,
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_our_discoverers_pass(name: str) -> None:
    check_discoverer(*OURS[name], episodes=120, rounds=8)


# --- a discoverer without gradients, and the faults that it may have


class Centroids(nn.Module):
    """Logits from the distance to the mean of the features of each code."""

    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(CODES, FEATURES))
        self.register_buffer("counts", torch.zeros(CODES, 1))

    def forward(self, features: Tensor) -> Tensor:
        means = self.sums / self.counts.clamp_min(1)
        return -10.0 * (features.unsqueeze(-2) - means).square().sum(-1)


class Means(ModeDiscoverer):
    """Without a fault: learns the mean of the features of each code, all steps alike."""

    def __init__(self) -> None:
        super().__init__(CategoricalMI(Centroids(), CODES))
        self.pending: list[tuple[Tensor, Tensor]] = []

    def mask(self, rollout: TensorDictBase) -> Tensor:
        everything = torch.ones(rollout.batch_size, dtype=torch.bool)
        return rollout.get(("collector", "mask"), everything)

    def latent(self, rollout: TensorDictBase) -> Tensor:
        latent = require(rollout, "latent", "Means")[self.mask(rollout)]
        check_support(self.prior, latent)
        return latent

    def features(self, rollout: TensorDictBase) -> Tensor:
        features = require(rollout, ("next", "history"), "Means")[self.mask(rollout)]
        if not torch.isfinite(features).all():
            raise NonFiniteError("NaN in the features")
        return features

    def observe(self, rollout: TensorDictBase) -> None:
        self.pending.append((self.features(rollout), self.latent(rollout)))

    def update(self) -> dict[str, float]:
        centroids = self.estimator.network.module
        for features, latent in self.pending:
            centroids.sums.index_add_(0, latent, features)
            centroids.counts.index_add_(0, latent, torch.ones(len(latent), 1))
        self.pending = []
        return {"rows": float(centroids.counts.sum())}


def test_a_discoverer_without_gradients_passes() -> None:
    check_discoverer(Means, FEATURES)


class Regression(NetworkEstimator):
    """log q(z | s) of a normal distribution around the network's output, for codes N(0, I)."""

    is_lower_bound = True
    upper_limit = math.inf
    std = 0.5

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        prior = self.prior.log_prob(tensordict.get(self.latent_key))
        return -self.sample_loss(tensordict) - prior

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        error = (tensordict.get(self.latent_key) - self.output(tensordict)) / self.std
        return (0.5 * error.square() + math.log(self.std * math.sqrt(2 * math.pi))).sum(-1)


class Linear(nn.Module):
    """Least squares from the moments of the data."""

    squares: Tensor
    products: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("squares", torch.eye(FEATURES))
        self.register_buffer("products", torch.zeros(FEATURES, 2))

    def forward(self, features: Tensor) -> Tensor:
        return features @ torch.linalg.solve(self.squares, self.products)


class LeastSquares(Means):
    """Continuous codes, from the features at the end."""

    def __init__(self) -> None:
        ModeDiscoverer.__init__(self, Regression(Linear(), 2, NormalPrior(2)))
        self.pending = []

    def mask(self, rollout: TensorDictBase) -> Tensor:
        return rollout.get(("next", "done")).squeeze(-1)

    def update(self) -> dict[str, float]:
        linear = self.estimator.network.module
        for features, latent in self.pending:
            linear.squares += features.T @ features
            linear.products += features.T @ latent
        self.pending = []
        return {}


def test_continuous_codes() -> None:
    check_discoverer(LeastSquares, FEATURES)


class LearnsNothing(LeastSquares):
    def update(self) -> dict[str, float]:
        return {}


class Returns(Means):
    def observe(self, rollout: TensorDictBase) -> Any:
        super().observe(rollout)
        return rollout


class Clones(Means):
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return super().forward(tensordict).clone()


class Overwrites(Means):
    def observe(self, rollout: TensorDictBase) -> None:
        super().observe(rollout)
        rollout.get("latent").zero_()


class Unseeded(Means):
    numbers = itertools.count()

    def features(self, rollout: TensorDictBase) -> Tensor:
        return super().features(rollout) + 1e-3 * next(self.numbers)


class KeepsViews(Means):
    def observe(self, rollout: TensorDictBase) -> None:
        super().observe(rollout)
        self.pending[-1] = (rollout.get(("next", "history")), rollout.get("latent"))

    def update(self) -> dict[str, float]:
        self.pending = [(f.flatten(0, -2), z.flatten()) for f, z in self.pending]
        return super().update()


class ReturnsTensors(Means):
    def update(self) -> Any:
        return {name: torch.tensor(value) for name, value in super().update().items()}


class ReturnsNaN(Means):
    def update(self) -> dict[str, float]:
        return super().update() | {"loss": math.nan}


class DropsACode(Means):
    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_prob(tensordict)[..., 1:]


class GivesLogits(Means):
    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        return self.estimator.logits(tensordict)


class WritesLogits(Means):
    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        tensordict.set("logits", self.estimator.logits(tensordict))
        return super().log_prob(tensordict)


class Stands(Means):
    def update(self) -> dict[str, float]:
        self.pending = []
        return {}


class Renames(Means):
    def latent(self, rollout: TensorDictBase) -> Tensor:
        return (super().latent(rollout) + 1) % CODES


class TakesAnyCode(Means):
    def latent(self, rollout: TensorDictBase) -> Tensor:
        return require(rollout, "latent", "Means")[self.mask(rollout)].clamp(0, CODES - 1)


class InventsCodes(Means):
    def latent(self, rollout: TensorDictBase) -> Tensor:
        if rollout.get("latent", None) is None:
            return torch.zeros(rollout.numel(), dtype=torch.int64)
        return super().latent(rollout)


class ForgetsItsAge(Means):
    """Weighs new data by how often it was updated, which its state does not say."""

    age = 0

    def update(self) -> dict[str, float]:
        self.age += 1
        return super().update() | {"age": float(self.age)}


class SavesObjects(Means):
    def get_extra_state(self) -> Any:
        return {"prior": self.prior}

    def set_extra_state(self, state: Any) -> None:
        pass


class ReadsPadding(Means):
    def mask(self, rollout: TensorDictBase) -> Tensor:
        return torch.ones(rollout.batch_size, dtype=torch.bool)


class LearnsPadding(ReadsPadding):
    def latent(self, rollout: TensorDictBase) -> Tensor:
        latent = require(rollout, "latent", "Means")
        mask = rollout.get(("collector", "mask"), torch.ones_like(latent, dtype=torch.bool))
        latent = torch.where(mask, latent, 0).flatten()
        check_support(self.prior, latent)
        return latent

    def features(self, rollout: TensorDictBase) -> Tensor:
        features = require(rollout, ("next", "history"), "Means").flatten(0, -2)
        return features.nan_to_num(100.0)


class LearnsNaN(Means):
    def features(self, rollout: TensorDictBase) -> Tensor:
        return require(rollout, ("next", "history"), "Means")[self.mask(rollout)].nan_to_num()


class InventsFeatures(Means):
    def features(self, rollout: TensorDictBase) -> Tensor:
        if rollout.get(("next", "history"), None) is None:
            return torch.zeros(rollout.numel(), FEATURES)
        return super().features(rollout)


class RaisesAnything(Means):
    def features(self, rollout: TensorDictBase) -> Tensor:
        try:
            return super().features(rollout)
        except NonFiniteError as error:
            raise RuntimeError("something is wrong") from error


class CallsOnHalf(Means):
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.observe(tensordict[: len(tensordict) // 2])
        return tensordict


shared = Centroids().requires_grad_(False)
shared.weight = nn.Parameter(torch.ones(()))


class Shares(Means):
    def __init__(self) -> None:
        super().__init__()
        self.shared = shared


FAULTY: dict[str, Callable[[], Any]] = {
    "which is no ModeDiscoverer": partial(nn.Linear, 2, 2),
    "share parameters": Shares,
    "observe must return nothing": Returns,
    "must return the very rollout": Clones,
    "changes 'latent' of the rollouts": Overwrites,
    "two things from the same data under one seed": Unseeded,
    "keeps a view of what it observed": KeepsViews,
    r"finite numbers by name, got 'rows': tensor\(960": ReturnsTensors,
    "finite numbers by name, got 'loss': nan": ReturnsNaN,
    r"has the shape \(240, 3\), expected \(240, 4\)": DropsACode,
    "is not normalised": GivesLogits,
    "log_prob changes 'logits'": WritesLogits,
    "does not tell behaviours apart after 12 updates": Stands,
    r"its bound went from .* to .* nats": LearnsNothing,
    "does not give behaviours the names of their codes": Renames,
    "codes from outside of the prior's support": TakesAnyCode,
    "learns from the codes, but takes rollouts without 'latent'": InventsCodes,
    "state_dict of a trained one goes on differently": ForgetsItsAge,
    "holds more than plain tensors": SavesObjects,
    r"reads rows that \('collector', 'mask'\) leaves out: ": ReadsPadding,
    r"learns from rows that \('collector', 'mask'\) leaves out": LearnsPadding,
    "learns from NaN under 'history'": LearnsNaN,
    "takes rollouts without 'history'": InventsFeatures,
    "raised RuntimeError where NonFiniteError is expected: something": RaisesAnything,
    "as a collector's postproc learns another thing": CallsOnHalf,
}


@pytest.mark.parametrize("sentence", FAULTY)
def test_faults_are_found(sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_discoverer(FAULTY[sentence], FEATURES)


def test_features_have_to_be_those_that_it_reads() -> None:
    with pytest.raises(AssertionError, match=r"reads \['history'\], but .* of \['observation'\]"):
        check_discoverer(Means, {"observation": (FEATURES,)})


@pytest.mark.parametrize("budget", [{"episodes": 5}, {"steps": 1}, {"rounds": 0}])
def test_budgets_that_show_nothing_are_refused(budget: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="at least 20 episodes of 2 steps and a round"):
        check_discoverer(Means, FEATURES, **budget)


def test_the_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    check_discoverer(Means, FEATURES, episodes=60, rounds=2)
    assert torch.equal(torch.get_rng_state(), before)
