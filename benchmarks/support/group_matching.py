"""Same-start group matching: rollouts from one state become as likely as they pay."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase

from modereg.errors import ConfigurationError
from modereg.learners.base import Problem, descend
from modereg.learners.replay import steering_optimizer
from modereg.objectives import GroupMatchingLoss
from modereg.seeding import derived_seed

from .first_episodes import MASK, first_episodes
from .rivals import MatchingConfig

__all__ = ["GroupMatching"]

GROUPS = 9
"""Sets the seeds of a run's groups apart from others."""


class GroupMatching:
    """Plays K rollouts from each start and descends :class:`~modereg.objectives.GroupMatchingLoss`.

    A seeded reset begins in the same states as the one before, so K rollouts with one seed are
    groups in any environment whose resets repeat, and nothing is asked of it besides. What chance
    does in an environment that draws from the same generator repeats too. Each row is a group.

    Args:
        problem: what is improved.
        config: options.
    """

    checkpoint_every = 1

    def __init__(self, problem: Problem, config: MatchingConfig) -> None:
        self.problem, self.steering, self.config = problem, problem.steering, config
        self.loss = GroupMatchingLoss(self.steering, beta=config.beta)
        self.loss.set_keys(reward=problem.reward_key)
        rates = (config.learning_rate, config.std_learning_rate)
        self.optimizer = steering_optimizer(self.steering, *rates)
        self.batches = 0

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, K, T]``.

        Raises:
            ConfigurationError: if seeded resets do not repeat.
        """
        seed = derived_seed(self.problem.seed, GROUPS, self.batches)
        self.batches += 1
        plays = range(self.config.group)
        batch = torch.stack(
            [first_episodes(self.problem.env, self.steering, seed) for _ in plays], 1
        )
        for key in self.steering.observation_keys:
            starts = batch[:, :, 0].get(key)
            if not torch.equal(starts, starts[:, :1].expand_as(starts)):
                raise ConfigurationError(
                    f"expected an environment whose seeded resets repeat, got starts that differ "
                    f"in {key!r}; its set_seed must seed its starts"
                )
        return batch

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Go over the groups a few times; return the means of the last pass's figures."""
        data, rows = batch.select(*self.loss.in_keys, MASK), []
        for _ in range(self.config.epochs):
            order = torch.randperm(len(data), device=data.device)
            rows = [self._step(data[part]) for part in order.split(self.config.minibatch)]
        mean = torch.stack(rows).mean(0)
        std = self.steering.distribution(data).base_dist.scale.mean()
        mean.set("noise_std", std.detach())
        return {name: float(value) for name, value in mean.items()}

    def _step(self, groups: TensorDictBase) -> TensorDictBase:
        losses = self.loss(groups)
        where = f"batch {self.batches}"
        descend(self.optimizer, losses["loss_matching"], self.config.max_grad_norm, where)
        return losses.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches."""
        policy, optimizer = dict(self.steering.state_dict()), self.optimizer.state_dict()
        return {"steering": policy, "optimizer": optimizer, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.steering.load_state_dict(state["steering"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches = state["batches"]
