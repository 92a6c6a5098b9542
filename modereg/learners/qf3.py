"""The gradient of a critic on the weights of the denoiser; the steering policy stays."""

from __future__ import annotations

import torch

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.learners.base import Problem
from modereg.learners.config import QF3Config
from modereg.learners.replay import ReplayLearner, loss_options, standardise_chunks
from modereg.objectives import QF3Loss
from modereg.reading import in_next

__all__ = ["QF3"]


class QF3(ReplayLearner):
    """Learns a critic of what was played, and a copy of the denoiser from it.

    Noise comes from psi(w | s, z), so codes reach the trained policy as they reached the base; the
    environment plays it from the beginning, without noise in its steps, and so it explores by the
    noise that it begins at alone. It goes on from the weights that a start brings.

    Args:
        problem: what is improved.
        config: options.

    Raises:
        ConfigurationError: if the base has no chain of denoising steps, or the start's trained
            another number of them, or adapters of another rank, or told it no codes, or if it
            cannot be told codes.
    """

    loss: QF3Loss

    def __init__(self, problem: Problem, config: QF3Config) -> None:
        told = config.embed_codes
        self.chain = problem.make_chain(config.steps, config.lora_rank, embed_codes=told, noise=0.0)
        problem.env.set_decoder(self.chain)
        loss = QF3Loss(
            self.chain,
            problem.steering,
            problem.make_chunk_qvalue(config.critics),
            ChunkDecoder(problem.env),
            clip=config.clip,
            cfm_coef=config.cfm_coef,
            noise=config.noise,
            **loss_options(problem, config),
        )
        if problem.layout.noise_basis is not None:
            loss.set_keys(action=in_next(keys.NOISE))
        actor = [value for value in self.chain.tuned.parameters() if value.requires_grad]
        critic = loss.qvalue_network.parameters()
        optimizers = {
            "actor": torch.optim.Adam(actor, config.learning_rate, fused=True),
            "critic": torch.optim.Adam(critic, config.critic_learning_rate, fused=True),
        }
        super().__init__(problem, config, loss, optimizers)

    def begin(self) -> None:
        """Standardise the chunks that the critic reads."""
        standardise_chunks(self.loss, self.kept_rows())
