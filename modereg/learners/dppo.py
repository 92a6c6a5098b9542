"""PPO on the weights of the denoiser, over its steps; the steering policy stays."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase

from modereg.learners.base import Problem
from modereg.learners.config import DPPOConfig
from modereg.learners.ppo import OnPolicyLearner
from modereg.objectives import ChainPPOLoss
from modereg.policies import ChainRecorder

__all__ = ["DPPO"]


class DPPO(OnPolicyLearner):
    """Trains a copy of the denoiser behind the codes of a steering policy that stays as it is.

    As in DPPO (arXiv 2409.00588) every denoising step is an action; noise comes from psi(w | s, z),
    so codes reach the trained policy as they reached the base. While it collects, the environment
    plays draws of the chain; between batches, its decode without noise in the steps, which is what
    is judged, saved and deployed. It goes on from the weights that a start brings.

    Args:
        problem: what is improved.
        config: options.

    Raises:
        ConfigurationError: if the base has no chain of denoising steps, or the start's trained
            another number of them, or adapters of another rank, or told it no codes, or if it
            cannot be told codes.
    """

    def __init__(self, problem: Problem, config: DPPOConfig) -> None:
        self.chain = problem.make_chain(
            config.steps,
            config.lora_rank,
            embed_codes=config.embed_codes,
            noise=config.noise,
            floor=config.floor,
        )
        critic = problem.make_critic()
        loss = ChainPPOLoss(
            self.chain,
            critic,
            clip_epsilon=config.clip,
            clip_first=config.clip_first,
            gamma_denoising=config.gamma_denoising,
            kl_coef=config.kl_coef,
            loss_critic_type="l2",
        )
        learned = [value for value in self.chain.tuned.parameters() if value.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": learned, "lr": config.learning_rate},
            {"params": [*critic.parameters()], "lr": config.critic_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups, fused=True)
        super().__init__(problem, config, loss, optimizer, weights=self.chain.tuned, critic=critic)
        problem.env.set_decoder(self.chain)

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]`` of draws, with the chain of each decision."""
        env, recorder = self.problem.env, ChainRecorder(self.chain)
        env.set_decoder(recorder)
        try:
            return recorder.write(super().collect())
        finally:
            env.set_decoder(self.chain)
