"""Codes of any kind in benchmarks: cells of a continuous space, imitation, fixed codes judged."""

from __future__ import annotations

from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import functional, keys
from modereg.discovery import kmeans
from modereg.discovery.imitation import BalancedSampler
from modereg.estimators import RewardEstimator
from modereg.metrics import behaviour_metrics
from modereg.networks import MLP, InputNoise
from modereg.priors import Prior
from modereg.recipes.setup import Setup
from modereg.rollouts import Episodes, collect_episodes
from modereg.seeding import derived_seed, isolated_generators
from modereg.steering import SteeringPolicy

__all__ = [
    "Cells",
    "fixed_codes",
    "imitate_cells",
    "judge_codes",
    "set_input_noise",
]

DRAWS = 512
"""Draws of the prior for each cell."""


class Cells:
    """K cells of a continuous code space: a code belongs to the cell of its nearest anchor.

    The anchors are k-means of draws of the prior, so that cells are about equally likely. A code of
    a cell is one of the prior's draws that fell into it.

    Args:
        prior: continuous.
        num_cells: K.
        seed: of draws and k-means.
    """

    def __init__(self, prior: Prior, num_cells: int, seed: int) -> None:
        with isolated_generators(derived_seed(seed, 31)):
            self.bank = prior.sample(torch.Size([DRAWS * num_cells]))
        anchors = kmeans(self.bank, num_cells, restarts=1, seed=seed)
        cells = functional.nearest_centroid(self.bank, anchors)
        self.bank = self.bank[torch.argsort(cells)]
        self.counts = torch.bincount(cells, minlength=num_cells)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, cells: Tensor) -> Tensor:
        """Return a code ``[n, D]`` of the prior within each of some cells ``[n]``."""
        place = (torch.rand(len(cells)) * self.counts[cells]).long()
        return self.bank[self.starts[cells] + place]


def set_input_noise(estimator: RewardEstimator, std: float) -> None:
    """Give the networks of an estimator that have noise on their input this one."""
    for module in estimator.modules():
        if isinstance(module, InputNoise):
            module.std, module.relative = std, False


def imitate_cells(steering: SteeringPolicy, data: TensorDict, cells: Cells, steps: int) -> None:
    """Fit to triples whose codes are cells, drawing a code within its cell anew for each.

    What :class:`~modereg.discovery.NoiseImitation` does for discrete codes, by the same options.
    """
    observed = torch.cat([data.get(key).flatten(1) for key in steering.observation_keys], -1)
    cast(MLP, steering.head.network).features.fit(observed)
    draw = BalancedSampler(data.get(keys.LATENT), len(cells.counts))
    optimizer = torch.optim.Adam(steering.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 2e-4)
    for _ in range(steps):
        batch = data[draw(2048)]
        batch.set(steering.latent_key, cells.draw(batch.get(keys.LATENT)))
        noise = batch.get(steering.action_key)
        loss = -steering.distribution(batch).log_prob(noise).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def fixed_codes(prior: Prior, draws: int) -> Tensor:
    """Return all codes of a discrete prior, else some draws, the same at each call."""
    if prior.num_codes is not None:
        return torch.arange(prior.num_codes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return prior.sample(torch.Size([draws]))


@torch.no_grad()
def judge_codes(
    setup: Setup,
    steering: SteeringPolicy | None,
    prior: Prior,
    codes: Tensor,
    *,
    episodes: int,
    seed: int,
    estimator: RewardEstimator | None = None,
) -> dict[str, Any]:
    """Roll out fixed codes ``[M]`` or ``[M, D]``, each in as many episodes, and judge them.

    Args:
        setup: task and base.
        steering: None is the base.
        prior: p(z).
        codes: what is commanded.
        episodes: in all; rounded up to whole batches of environments.
        seed: of the episodes.
        estimator: whose bound on fresh episodes is wanted, where it has one.
    """
    env = setup.steered(prior, 1.0)
    env.set_seed(derived_seed(seed, 41))
    size, parts, commanded = env.batch_size.numel(), [], []
    for first in range(0, episodes, size):
        index = torch.arange(first, first + size) % len(codes)
        with env.transform[-1].force(codes[index]):
            rolled = collect_episodes(
                env,
                size,
                policy=steering,
                final=setup.final_keys(env),
            )
        parts.append(rolled)
        commanded.append(index)
    rolled, index = Episodes.cat(parts), torch.cat(commanded)
    figures = _figures(setup, rolled, index, len(codes))
    if estimator is not None and estimator.is_lower_bound:
        figures["bound"] = float(estimator.bound(rolled.final))
    return figures


def _figures(setup: Setup, rolled: Episodes, index: Tensor, num_codes: int) -> dict[str, Any]:
    modes = rolled.final.get(keys.MODE).squeeze(-1)
    metrics = behaviour_metrics(
        rolled.final.get(keys.SUCCESS).squeeze(-1),
        index,
        num_codes,
        returns=rolled.returns,
        modes=modes,
        num_modes=setup.task.num_modes,
    ).to_dict()
    names = ("success", "success_error", "entropy", "present_modes", "commandable_modes")
    decided = modes >= 0
    table = functional.contingency(
        index[decided], modes[decided], num_codes, setup.task.num_modes or 1
    )
    shares = torch.tensor(metrics["mode_shares"])
    largest = shares.argsort(descending=True)[:2].tolist()
    labels = setup.task.mode_names or range(len(shares))
    return {name: metrics[name] for name in names} | {
        "largest_modes": {str(labels[mode]): round(float(shares[mode]), 3) for mode in largest},
        "purity": float(table.amax(1).sum() / table.sum().clamp_min(1)),
        "nmi": metrics["code_mode_nmi"],
        "undecided": metrics["undecided"],
        "clipped": rolled.clipped,
        "episodes": len(rolled),
        "bound": None,
    }
