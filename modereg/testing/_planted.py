"""Rollouts of behaviours that are known, for whatever keys and codes a discoverer has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv

from modereg import keys
from modereg.discovery import ModeDiscoverer
from modereg.priors import CategoricalPrior
from modereg.testing.environments import CountingEnv
from modereg.transforms import LatentConditioner

__all__ = ["MASK", "Planted", "random_features_env"]

MASK: NestedKey = ("collector", "mask")
"""Entry that says which rows are data, where episodes are padded."""

CANDIDATES = 4096
SPREAD = 0.1  # of the distance between neighbouring behaviours


class Planted:
    """Straight paths from the origin to a place that the episode's code decides.

    Discrete codes lead to places in [-1, 1]^F that are far apart; a continuous code z leads to
    W z, W having orthonormal columns (or rows, where the features are the fewer).

    Args:
        discoverer: whose keys and prior they have.
        features: shape of each feature, in the order of the discoverer's keys.
        episodes: B.
        steps: T.
        seed: of the places.
    """

    def __init__(
        self,
        discoverer: ModeDiscoverer,
        features: Mapping[NestedKey, Sequence[int]],
        episodes: int,
        steps: int,
        seed: int,
    ) -> None:
        self.prior, self.latent_key, self.features = (
            discoverer.prior,
            discoverer.latent_key,
            features,
        )
        self.widths = [math.prod(shape) for shape in features.values()]
        self.episodes, self.steps = episodes, steps
        generator = torch.Generator().manual_seed(seed)
        total = sum(self.widths)
        if isinstance(self.prior, CategoricalPrior):
            self.support = (self.prior.probs > 0).nonzero().squeeze(-1)
            self.places = _far_apart(len(self.support), total, generator)
            apart = torch.pdist(self.places)
            self.noise = SPREAD * float(apart.min()) if len(apart) else SPREAD
        else:
            size = max(total, self.prior.feature_dim)
            square = torch.linalg.qr(torch.randn((size, size), generator=generator))[0]
            self.places = square[: self.prior.feature_dim, :total]
            self.noise = SPREAD

    def behaviours(self, seed: int) -> Tensor:
        """Return which behaviour each episode shows: ``[B]`` in [0, M), or codes ``[B, dim]``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(self.prior, CategoricalPrior):
                return torch.randint(len(self.support), (self.episodes,))
            return self.prior.sample(torch.Size([self.episodes]))

    def codes(self, seed: int, shift: int = 0) -> Tensor:
        """Return the code of each episode; ``shift`` renames discrete ones within the support."""
        behaviours = self.behaviours(seed)
        if isinstance(self.prior, CategoricalPrior):
            return self.support[(behaviours + shift) % len(self.support)]
        return behaviours

    def rollout(self, seed: int, shift: int = 0) -> TensorDict:
        """Return transitions ``[B, T]``; every episode ends in the last one, with success."""
        places = self._places(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        share = torch.arange(self.steps + 1) / self.steps
        paths = share[:, None] * places[:, None]
        paths = paths + self.noise * torch.randn(paths.shape, generator=generator)
        batch = [self.episodes, self.steps]
        rollout = TensorDict({"next": TensorDict({}, batch)}, batch)
        for entries, values in ((rollout, paths[:, :-1]), (rollout.get("next"), paths[:, 1:])):
            parts = values.split(self.widths, -1)
            for (key, shape), part in zip(self.features.items(), parts, strict=True):
                entries.set(key, part.reshape(*batch, *shape).clone())
        codes = self.codes(seed, shift).unsqueeze(1)
        rollout.set(self.latent_key, codes.expand(*batch, *codes.shape[2:]).clone())
        done = (torch.arange(self.steps) == self.steps - 1).view(-1, 1).expand(*batch, 1)
        for key in ("done", "terminated", keys.SUCCESS):
            rollout.set(("next", key), done.clone())
        return rollout

    def ends(self, seed: int) -> TensorDict:
        """Return the features and codes at the end of each episode, both in the root, ``[B]``."""
        last = self.rollout(seed)[:, -1]
        return (
            last.get("next").select(*self.features).set(self.latent_key, last.get(self.latent_key))
        )

    def padded(self, seed: int, garbage: bool) -> TensorDict:
        """Return a rollout of which every second episode ends a step early, and is padded.

        The padding is zero, as TorchRL's is, or nothing that could be read.
        """
        rollout = self.rollout(seed)
        short = (torch.arange(self.episodes) % 2).bool()
        for key in ("done", "terminated", keys.SUCCESS):
            flag = rollout.get(("next", key))
            flag[short, -2], flag[short, -1] = True, False
        for entries in (rollout, rollout.get("next")):
            for key in self.features:
                entries.get(key)[short, -1] = torch.nan if garbage else 0.0
        latent = rollout.get(self.latent_key)
        latent[short, -1] = 10**6 if garbage else 0
        mask = torch.ones(rollout.batch_size, dtype=torch.bool)
        mask[short, -1] = False
        return rollout.set(MASK, mask)

    def _places(self, seed: int) -> Tensor:
        behaviours = self.behaviours(seed)
        discrete = isinstance(self.prior, CategoricalPrior)
        return self.places[behaviours] if discrete else behaviours @ self.places


def _far_apart(number: int, dim: int, generator: torch.Generator) -> Tensor:
    """Choose points in [-1, 1]^dim, each far from those before, ``[number, dim]``."""
    candidates = 2 * torch.rand((CANDIDATES, dim), generator=generator) - 1
    chosen = [candidates[0].sign()]
    for _ in range(number - 1):
        nearest = torch.cdist(candidates, torch.stack(chosen)).amin(1)
        chosen.append(candidates[nearest.argmax()])
    return torch.stack(chosen)


class _RandomFeatures(Transform):
    """Writes features that are drawn anew in each step."""

    def __init__(self, features: Mapping[NestedKey, Sequence[int]]) -> None:
        super().__init__()
        self.shapes = dict(features)

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key, shape in self.shapes.items():
            next_tensordict.set(key, torch.randn((*next_tensordict.batch_size, *shape)))
        return next_tensordict

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        for key, shape in self.shapes.items():
            observation_spec[key] = Unbounded((*observation_spec.shape, *shape))
        return observation_spec


def random_features_env(planted: Planted, num_envs: int) -> EnvBase:
    """Return an environment of short episodes with the same keys and prior, ``[num_envs]``."""
    lengths = [3 + row % 3 for row in range(num_envs)]
    env = CountingEnv(lengths, observation_key="steps_so_far", action_key="move")
    codes = LatentConditioner(planted.prior, planted.latent_key, "features_of_the_code")
    return TransformedEnv(env, Compose(_RandomFeatures(planted.features), codes))
