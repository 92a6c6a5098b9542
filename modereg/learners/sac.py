"""Soft actor-critic on the noise of a frozen policy: off-policy, from a replay buffer."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import (
    LazyTensorStorage,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
)

from modereg.learners.base import Problem, descend
from modereg.learners.config import SACConfig
from modereg.objectives import NoiseSACLoss
from modereg.reading import require_finite, valid_rows
from modereg.seeding import derived_seed

__all__ = ["SAC"]

BATCHES = 6
"""Sets the seeds of batches apart from those of other parts of a run."""

CHECKPOINT_EPISODES = 4
"""Longest episodes between two checkpoints, which hold the buffer."""


class SAC:
    """Collects a few decisions, keeps them, and learns from what it kept.

    Episodes go on from batch to batch; they begin with a seeded reset after each checkpoint. The
    intrinsic reward is paid again on what is sampled, by the newest discoverer.

    Args:
        problem: what is improved.
        config: options.
    """

    def __init__(self, problem: Problem, config: SACConfig) -> None:
        self.problem, self.config = problem, config
        self.steering = problem.steering
        self.loss = NoiseSACLoss(
            problem.steering,
            problem.make_qvalue(config.critics),
            gamma=problem.layout.gamma,
            kl_coef=config.kl_coef,
            reduction=config.reduction,
        )
        self.loss.set_keys(reward=problem.reward_key)
        head = self.steering.head
        self.actor_optimizer = torch.optim.Adam(
            [
                {"params": [*head.network.parameters()], "lr": config.learning_rate},
                {"params": [*head.log_std.parameters()], "lr": config.std_learning_rate},
            ],
            fused=True,
        )
        self.critic_optimizer = torch.optim.Adam(
            self.loss.qvalue_network.parameters(), config.critic_learning_rate, fused=True
        )
        self.device = next(self.steering.parameters()).device
        self.writer = TensorDictRoundRobinWriter()
        self.buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(config.buffer, device=self.device),
            writer=self.writer,
            batch_size=config.minibatch,
        )
        read = [] if problem.mi_reward is None else problem.mi_reward.reads
        self.stored = list(dict.fromkeys([*self.loss.in_keys, *read]))
        longest = problem.layout.max_decisions
        self.checkpoint_every = -(-CHECKPOINT_EPISODES * longest // config.decisions)
        self.batches, self.kept, self.owed, self.steps = 0, 0, 0.0, 0
        self._under_way = False
        self.collector = problem.make_collector(config.decisions)

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]``."""
        if not self._under_way:
            self.problem.env.set_seed(derived_seed(self.problem.seed, BATCHES, self.batches))
            self.collector.reset()
        self.batches, self._under_way = self.batches + 1, True
        return self.collector.rollout()

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Keep a batch, and learn from what was kept; return the means of the figures.

        Nothing is learned before ``prefill`` decisions are there, and ``prefilled`` says what share
        of them is; then the critic learns first, as often as if it had learned all along.

        Raises:
            NonFiniteError: before anything is kept or learned from that is not finite.
        """
        data = batch.select(*self.stored).reshape(-1)
        valid = valid_rows(batch.reshape(-1))
        data = (data if valid is None else data[valid]).to(self.device)
        require_finite(data, self.stored, f"batch {self.batches}")
        if not len(data):
            return {}
        self.buffer.extend(data)
        before, self.kept = self.kept, self.kept + len(data)
        self.owed += self.config.updates * len(data)
        if self.kept < self.config.prefill:
            return {"prefilled": self.kept / self.config.prefill}
        figures = self._learn(critic_only=before < self.config.prefill)
        names = {name for row in figures for name in row}
        mean = {
            name: torch.stack([row[name] for row in figures if name in row]).mean()
            for name in sorted(names)
        }
        return {name: float(value) for name, value in mean.items()}

    def _learn(self, *, critic_only: bool) -> list[dict[str, Tensor]]:
        """Take the gradient steps that are owed."""
        steps, figures = int(self.owed), []
        self.owed -= steps
        for _ in range(steps):
            self.steps += 1
            with_actor = not critic_only and self.steps % self.config.actor_every == 0
            figures.append(self._step(with_actor))
        return figures

    def _step(self, with_actor: bool) -> dict[str, Tensor]:
        sample = self.buffer.sample()
        if self.problem.mi_reward is not None:
            sample = self.problem.mi_reward(sample)
        losses = self.loss.critic_loss(sample)
        where = f"batch {self.batches}"
        descend(self.critic_optimizer, losses["loss_qvalue"], self.config.max_grad_norm, where)
        self.loss.update_target(self.config.tau)
        if with_actor:
            losses |= self.loss.actor_loss(sample)
            descend(self.actor_optimizer, losses["loss_actor"], self.config.max_grad_norm, where)
        return {name: value.detach() for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches, the buffer too; episodes under way end here."""
        self._under_way = False
        kept = self.buffer[:].select(*self.stored).clone().to_dict() if self.kept else {}
        return {
            "loss": dict(self.loss.state_dict()),  # the steering policy is in it
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "buffer": kept,
            "writer": dict(self.writer.state_dict()),
            "batches": self.batches,
            "kept": self.kept,
            "owed": self.owed,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.loss.load_state_dict(state["loss"])
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for name in ("batches", "kept", "owed", "steps"):
            setattr(self, name, state[name])
        self.buffer.empty()
        if state["buffer"]:
            rows = TensorDict(state["buffer"]).auto_batch_size_(1)
            self.buffer.extend(rows.to(self.device))
            self.writer.load_state_dict(state["writer"])  # where the next are written
        self._under_way = False
