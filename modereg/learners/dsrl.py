"""DSRL with noise aliasing: steering by a critic of the chunks that were played."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.decoding import ChunkDecoder
from modereg.learners.base import Problem
from modereg.learners.config import DSRLConfig
from modereg.learners.demonstrated import DemonstratedLearner
from modereg.learners.replay import loss_options, standardise_chunks, steering_optimizer
from modereg.objectives import DSRLLoss

__all__ = ["DSRL"]


class DSRL(DemonstratedLearner):
    """Learns a critic of chunks, one of noises from that, and the steering policy from the second.

    Args:
        problem: what is improved.
        config: options.
    """

    loss: DSRLLoss

    def __init__(self, problem: Problem, config: DSRLConfig) -> None:
        loss = DSRLLoss(
            problem.steering,
            problem.make_chunk_qvalue(config.critics),
            problem.make_qvalue(config.critics),
            ChunkDecoder(problem.env),
            prior_share=config.prior_share,
            draws=config.draws,
            **loss_options(problem, config),
        )
        rate = config.critic_learning_rate
        rates = (config.learning_rate, config.std_learning_rate)
        distilled = loss.noise_qvalue_network.parameters()
        optimizers = {
            "actor": steering_optimizer(problem.steering, *rates),
            "critic": torch.optim.Adam(loss.qvalue_network.parameters(), rate, fused=True),
            "noise_critic": torch.optim.Adam(distilled, rate, fused=True),
        }
        super().__init__(problem, config, loss, optimizers)

    def begin(self) -> None:
        """Standardise the chunks that the critic reads."""
        standardise_chunks(self.loss, self.kept_rows())

    def step(self, sample: TensorDictBase, with_actor: bool) -> dict[str, Tensor]:
        """Distil the critic of noises first, and then do as other learners do."""
        losses = self.loss.distillation_loss(sample)
        self.descend("noise_critic", losses["loss_noise_qvalue"])
        return losses | super().step(sample, with_actor)
