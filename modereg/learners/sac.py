"""Soft actor-critic on the noise of a frozen policy: off-policy, from a replay buffer."""

from __future__ import annotations

import torch

from modereg.learners.base import Problem
from modereg.learners.config import SACConfig
from modereg.learners.replay import ReplayLearner, loss_options, steering_optimizer
from modereg.objectives import NoiseSACLoss

__all__ = ["SAC"]


class SAC(ReplayLearner):
    """Learns a critic of noises from the replay buffer, and the steering policy from the critic.

    Args:
        problem: what is improved.
        config: options.
    """

    def __init__(self, problem: Problem, config: SACConfig) -> None:
        loss = NoiseSACLoss(
            problem.steering,
            problem.make_qvalue(config.critics),
            **loss_options(problem, config),
        )
        rates = (config.learning_rate, config.std_learning_rate)
        critic = loss.qvalue_network.parameters()
        optimizers = {
            "actor": steering_optimizer(problem.steering, *rates),
            "critic": torch.optim.Adam(critic, config.critic_learning_rate, fused=True),
        }
        super().__init__(problem, config, loss, optimizers)
