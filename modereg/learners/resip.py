"""PPO on a residual that moves each action when it is played; the steering policy stays."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.learners.base import Problem, advantage_estimator
from modereg.learners.on_policy_config import ResiPConfig
from modereg.learners.ppo import OnPolicyLearner
from modereg.learners.single_steps import SingleSteps
from modereg.objectives import LeanPPOLoss
from modereg.reading import require, valid_rows

__all__ = ["ResiP"]


class ResiP(OnPolicyLearner):
    """Learns a residual from single steps, which sees what is observed then and the base's action.

    As in ResiP (arXiv 2407.16677) PPO's action is what the residual draws at each step, the base
    being a part of the environment; here it is bounded, and stands behind the codes of a steering
    policy that stays as it is. While it collects, the environment plays draws; between batches,
    their mean, which is what is judged, saved and deployed. From its first batch a new residual
    takes how far the base's own actions vary, and its critic learns. It goes on from the residual
    of single steps that a start brings.

    Args:
        problem: what is improved.
        config: options.

    Raises:
        ConfigurationError: if the start's residual has another bound, or for an intrinsic reward
            that is paid for each decision.
    """

    def __init__(self, problem: Problem, config: ResiPConfig) -> None:
        self.is_new = problem.env.step_residual is None
        self.residual = problem.make_step_residual(config.bound)
        actor, critic = self.residual.network, problem.make_step_critic()
        actor.set_std(config.spread * self.residual.bound / len(self.residual.directions) ** 0.5)
        loss = LeanPPOLoss(
            actor, critic, clip_epsilon=config.clip, entropy_coeff=0.0, loss_critic_type="l2"
        )
        groups: list[dict[str, Any]] = [
            {"params": [*actor.head.network.parameters()], "lr": config.learning_rate},
            {"params": [*critic.parameters()], "lr": config.critic_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups, fused=True)
        trained = {"residual": self.residual, "critic": critic}
        super().__init__(problem, config, loss, optimizer, **trained)
        self.advantage = advantage_estimator(
            problem.layout,
            critic,
            reward_key=problem.reward_key,
            lmbda=config.lmbda,
            shifted=False,  # padding stands between episodes
        )
        read = [*actor.in_keys, *critic.in_keys]
        written = [actor.action_key, actor.log_prob_keys[0]]
        self.single = SingleSteps(problem, self.residual, self._drawn, read, written)

    def _drawn(self, state: TensorDictBase) -> Tensor:
        """Return what is played in a state ``[*B]``, ``[*B, 1, A]``, and write its draw."""
        actor, residual = self.residual.network, self.residual
        read = state.select(*actor.in_keys).to(residual.directions.device)
        dist = actor.distribution(read)
        shift = dist.sample()
        state.set(actor.action_key, shift).set(actor.log_prob_keys[0], dist.log_prob(shift))
        return residual.moved(read.get(residual.base_key), residual.bounded(shift))

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]`` of draws, whose steps are kept for :meth:`update`."""
        with self.single.recorded():
            return super().collect()

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Go over the steps of a batch a few times; return the mean of the last pass's figures."""
        steps = self.single.write(batch)
        if self.first:
            rows = steps[valid_rows(steps)]
            if self.is_new:
                self.single.fit(rows)
            seen = [require(rows, key, "the critic") for key in self.critic.in_keys[:-1]]
            self.critic.module.features.fit(torch.cat([value.flatten(1) for value in seen], -1))
        return super().update(steps)

    @property
    def first(self) -> bool:
        """Whether the latest batch is the first, in which a new residual moved nothing."""
        return self.batches == 1

    def _step(self, minibatch: TensorDictBase) -> TensorDictBase:
        if self.first and self.is_new:  # the critic alone
            minibatch = minibatch.set("advantage", torch.zeros_like(minibatch.get("advantage")))
        return super()._step(minibatch)
