"""PPO on a steered environment, and what it shares with other learners of whole batches.

Collecting is TorchRL's ``Collector``, advantages are its ``GAE``, the objective is
:class:`~modereg.objectives.LeanPPOLoss`.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn

from modereg.learners.base import Problem, advantage_estimator, descend
from modereg.learners.config import OnPolicyConfig, PPOConfig
from modereg.objectives import LeanPPOLoss
from modereg.objectives.ppo import MASKS
from modereg.reading import in_next, require_finite, valid_rows
from modereg.seeding import derived_seed

__all__ = ["PPO", "OnPolicyLearner"]

BATCHES = 5
"""Sets the seeds of batches apart from those of other parts of a run."""


class OnPolicyLearner:
    """Collects whole batches and updates a policy and its critic on each.

    Batches as long as the longest episode begin with a seeded reset; shorter ones go on where the
    last one ended, and begin with one after each checkpoint.

    Args:
        problem: what is improved.
        config: options.
        loss: holds policy and critic; its reward is set to the problem's.
        optimizer: of both.
        **trained: what it changes, by the name under which :meth:`state_dict` has it.
    """

    def __init__(
        self,
        problem: Problem,
        config: OnPolicyConfig,
        loss: LeanPPOLoss,
        optimizer: torch.optim.Optimizer,
        **trained: nn.Module,
    ) -> None:
        self.problem, self.config, self.steering = problem, config, problem.steering
        self.loss, self.critic, self.optimizer = loss, loss.critic_network, optimizer
        self.trained = trained
        longest = problem.layout.max_decisions
        decisions = config.decisions or longest
        self.whole = decisions >= longest
        self.checkpoint_every = 1 if self.whole else -(-4 * longest // decisions)
        self.batches, self._under_way = 0, False
        self.collector = problem.make_collector(decisions, whole=self.whole)
        self.advantage = advantage_estimator(
            problem.layout, self.critic, reward_key=problem.reward_key, lmbda=config.lmbda
        )
        self.loss.set_keys(reward=problem.reward_key)

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]``."""
        if self.whole or not self._under_way:
            self.problem.env.set_seed(derived_seed(self.problem.seed, BATCHES, self.batches))
            if not self.whole:
                self.collector.reset()
        self.batches, self._under_way = self.batches + 1, True
        return self.collector.rollout()

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Go over a batch a few times; return the mean of the last pass's figures.

        Raises:
            NonFiniteError: before the optimiser's step, if what is learned from, or a gradient, is
                not finite; the sentence names the entry and the batch.
        """
        with torch.no_grad():
            self.advantage(batch)
        read = [in_next(self.problem.reward_key), *self.loss.in_keys]
        data = batch.select(*read, *MASKS, strict=False).reshape(-1)
        valid = valid_rows(data, MASKS)
        require_finite(data, read, f"batch {self.batches}", valid=valid)
        data = (data if valid is None else data[valid]).select(*self.loss.in_keys)
        advantage = data.get("advantage")
        spread = advantage.std(correction=int(len(data) > 1)).clamp_min(1e-6)
        data.set("advantage", (advantage - advantage.mean()) / spread)
        for epoch in range(self.config.epochs):
            self.loss.figures = epoch == self.config.epochs - 1  # only for the logs, at a price
            shuffled = data[torch.randperm(len(data), device=data.device)]
            losses = [self._step(part) for part in shuffled.split(self.config.minibatch)]
        mean: TensorDictBase = torch.stack(losses).mean(0)
        if "entropy" in mean:  # that of behaviours, everywhere
            mean["noise_entropy"] = mean.pop("entropy")
        return {name: float(value) for name, value in mean.items()}

    def _step(self, minibatch: TensorDictBase) -> TensorDictBase:
        losses = self.loss(minibatch)
        total = losses["loss_objective"] + losses["loss_critic"]
        if "loss_kl" in losses:
            total = total + losses["loss_kl"]
        descend(self.optimizer, total, self.config.max_grad_norm, f"batch {self.batches}")
        return losses.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches; episodes under way end here."""
        self._under_way = False
        return {name: dict(part.state_dict()) for name, part in self.trained.items()} | {
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        for name, part in self.trained.items():
            part.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches, self._under_way = state["batches"], False


class PPO(OnPolicyLearner):
    """PPO on the steering policy.

    Args:
        problem: what is improved.
        config: options.
    """

    def __init__(self, problem: Problem, config: PPOConfig) -> None:
        steering, critic = problem.steering, problem.make_critic()
        config = config.for_noise(steering.noise_shape.numel())
        loss = LeanPPOLoss(
            steering,
            critic,
            clip_epsilon=config.clip,
            entropy_coeff=0.0,
            kl_coef=config.kl_coef,
            loss_critic_type="l2",
        )
        groups: list[dict[str, Any]] = [
            {"params": [*steering.head.network.parameters()], "lr": config.learning_rate},
            {"params": [*steering.head.log_std.parameters()], "lr": config.std_learning_rate},
            {"params": [*critic.parameters()], "lr": config.critic_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups, fused=True)
        super().__init__(problem, config, loss, optimizer, steering=steering, critic=critic)
