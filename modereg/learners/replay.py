"""Learners with a replay buffer: what is collected is kept, and learned from many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import (
    LazyTensorStorage,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
)

from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.learners.base import Problem, descend
from modereg.learners.config import ReplayConfig
from modereg.learners.nstep import Windows, folded
from modereg.objectives import ChunkReplayLoss, ReplayLoss
from modereg.reading import require_finite, valid_rows
from modereg.seeding import derived_seed
from modereg.steering import SteeringPolicy

__all__ = ["ReplayLearner", "loss_options", "standardise_chunks", "steering_optimizer"]

BATCHES = 6
"""Sets the seeds of batches apart from those of other parts of a run."""

VALID = "_modereg_valid"

CHECKPOINT_EPISODES = 4
"""Longest episodes between two checkpoints, which hold the buffer."""


class ReplayLearner:
    """Collects a few decisions, keeps them, and learns from what it kept.

    Episodes go on from batch to batch; they begin with a seeded reset after each checkpoint. The
    intrinsic reward is paid again on what is sampled, by the newest discoverer. A learner of this
    kind is the loss and its optimisers; it may add to :meth:`prepared`, :meth:`begin`,
    :meth:`sample` and :meth:`step`.

    Args:
        problem: what is improved.
        config: options.
        loss: holds every network that is learned; its reward is set to the problem's.
        optimizers: by name, among them ``critic`` and ``actor``.
    """

    def __init__(
        self,
        problem: Problem,
        config: ReplayConfig,
        loss: ReplayLoss,
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        self.problem, self.config, self.steering = problem, config, problem.steering
        self.loss, self.optimizers = loss, dict(optimizers)
        self.loss.set_keys(reward=problem.reward_key)
        self.device = next(self.steering.parameters()).device
        self.writer = TensorDictRoundRobinWriter()
        self.buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(config.buffer, device=self.device), writer=self.writer
        )
        self.paid_by = [] if problem.mi_reward is None else problem.mi_reward.reads
        longest = problem.layout.max_decisions
        steps = min(config.nstep, self.longest(problem.layout))  # more would sum nothing more
        self.windows = Windows(steps, self.device) if steps > 1 else None
        needed = [*loss.in_keys, *self.paid_by, *[("next", "done")] * (steps > 1)]
        self.read: list[NestedKey] = list(dict.fromkeys(needed))
        self.stored = self.read
        self.checkpoint_every = -(-CHECKPOINT_EPISODES * longest // config.decisions)
        self.batches, self.kept, self.owed, self.steps = 0, 0, 0.0, 0
        self._under_way = False
        self.collector = problem.make_collector(config.decisions)

    @staticmethod
    def longest(layout: Layout) -> int:
        """Return how many transitions an episode has at most: its decisions."""
        return layout.max_decisions

    def prepared(self, data: TensorDictBase) -> TensorDictBase:
        """Return transitions ``[n]`` with ``stored``, what is kept of them, from what is read."""
        return data

    def begin(self) -> None:
        """Make ready what has to be told from the buffer, once, before the first gradient step."""

    def kept_rows(self) -> TensorDictBase:
        """Return the decisions in the buffer, ``[n]``."""
        data = self.buffer[:]
        return data if self.windows is None else data[:, 0]

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
            ConfigurationError: for a batch with padding before the end of an episode, where
                ``nstep`` needs decisions that follow one another.
        """
        data = self._transitions(batch)
        if not len(data):
            return {}
        self.buffer.extend(data)
        before, self.kept = self.kept, self.kept + len(data)
        self.owed += self.config.updates * len(data)
        if self.kept < self.config.prefill:
            return {"prefilled": self.kept / self.config.prefill}
        first = before < self.config.prefill
        if first:
            self.begin()
        figures = self._learn(critic_only=first)
        names = {name for row in figures for name in row}
        mean = {
            name: torch.stack([row[name] for row in figures if name in row]).mean()
            for name in sorted(names)
        }
        return {name: float(value) for name, value in mean.items()}

    def _transitions(self, batch: TensorDictBase) -> TensorDictBase:
        """Return what is kept of a batch: transitions ``[n]``, or windows ``[n, nstep]``."""
        data, valid = batch.select(*self.read).reshape(-1), valid_rows(batch.reshape(-1))
        require_finite(data, self.read, f"batch {self.batches}", valid=valid)
        if self.windows is None:
            data = data if valid is None else data[valid]
            return self._kept(data) if len(data) else data
        self._refuse_gaps(batch)
        valid = torch.ones_like(data.get(("next", "done"))[..., 0]) if valid is None else valid
        rows = self._kept(data).set(VALID, valid.to(self.device)).reshape(batch.shape)
        windows = self.windows.add(rows)
        return windows[windows.get(VALID)[:, 0]].exclude(VALID)

    def _kept(self, data: TensorDictBase) -> TensorDictBase:
        return self.prepared(data.to(self.device)).select(*self.stored)

    def _refuse_gaps(self, batch: TensorDictBase) -> None:
        """Refuse a batch ``[B, T]`` whose padding comes before the end of an episode."""
        if (valid := valid_rows(batch)) is None:
            return
        done = batch.get(("next", "done")).reshape(batch.shape)
        over = torch.cat([torch.zeros_like(done[:, :1]), done[:, :-1] | ~valid[:, :-1]], 1)
        if gaps := int((~valid & ~over).sum()):
            raise ConfigurationError(
                f"expected decisions that follow one another for nstep={self.config.nstep}, got "
                f"a batch with {gaps} that are padding; choose nstep=1"
            )

    def _learn(self, *, critic_only: bool) -> list[dict[str, Tensor]]:
        """Take the gradient steps that are owed."""
        steps, figures = int(self.owed), []
        self.owed -= steps
        for _ in range(steps):
            self.steps += 1
            with_actor = not critic_only and self.steps % self.config.actor_every == 0
            sample = self.sample()
            if self.problem.mi_reward is not None:
                sample = self.problem.mi_reward(sample)
            if self.windows is not None:
                sample = folded(sample, self.problem.reward_key, self.problem.layout.gamma)
            losses = self.step(sample, with_actor)
            figures.append({name: value.detach() for name, value in losses.items()})
        return figures

    def sample(self) -> TensorDictBase:
        """Return what a gradient step learns from, as it is kept."""
        return self.buffer.sample(self.config.minibatch)

    def step(self, sample: TensorDictBase, with_actor: bool) -> dict[str, Tensor]:
        """Take a gradient step of the critic, and one of the policy if asked; return the losses.

        Args:
            sample: transitions ``[n]``, with the intrinsic reward as it is paid now.
            with_actor: whether the policy learns too.
        """
        losses = self.loss.critic_loss(sample)
        self.descend("critic", losses["loss_qvalue"])
        self.loss.update_target(self.config.tau)
        if with_actor:
            losses |= self.loss.actor_loss(sample)
            self.descend("actor", losses["loss_actor"])
            self.loss.update_kl(losses["kl"])
        return losses

    def descend(self, name: str, loss: Tensor) -> None:
        """Take a step of one of the optimisers down a loss."""
        norm, where = self.config.max_grad_norm, f"batch {self.batches}"
        descend(self.optimizers[name], loss, norm, where)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes between batches, the buffer too; episodes under way end here."""
        self._begin_anew()
        kept = self.buffer[:].select(*self.stored).clone().to_dict() if self.kept else {}
        return {
            "loss": dict(self.loss.state_dict()),  # the policy that is learned is in it
            "optimizers": {name: part.state_dict() for name, part in self.optimizers.items()},
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
        for name, part in self.optimizers.items():
            part.load_state_dict(state["optimizers"][name])
        for name in ("batches", "kept", "owed", "steps"):
            setattr(self, name, state[name])
        self.buffer.empty()
        if state["buffer"]:
            self.buffer.extend(self.restored(state["buffer"]))
            self.writer.load_state_dict(state["writer"])  # where the next are written
        self._begin_anew()

    def restored(self, rows: dict[str, Any]) -> TensorDictBase:
        """Return kept transitions ``[n]``, or windows ``[n, nstep]``, of a state."""
        dims = 1 if self.windows is None else 2
        return TensorDict(rows).auto_batch_size_(dims).to(self.device)

    def _begin_anew(self) -> None:
        """End the episodes that are under way: the next batch begins with a reset."""
        self._under_way = False
        if self.windows is not None:
            self.windows.forget()


def loss_options(problem: Problem, config: ReplayConfig) -> dict[str, Any]:
    """Return what every :class:`~modereg.objectives.ReplayLoss` is told of a problem."""
    names = ("kl_coef", "kl_target", "reduction")
    return {"gamma": problem.layout.gamma} | {name: getattr(config, name) for name in names}


def steering_optimizer(
    steering: SteeringPolicy, learning_rate: float, std_learning_rate: float
) -> torch.optim.Adam:
    """Return Adam for a steering policy, whose standard deviations learn at a rate of their own."""
    groups: list[dict[str, Any]] = [
        {"params": [*steering.head.network.parameters()], "lr": learning_rate},
        {"params": [*steering.head.log_std.parameters()], "lr": std_learning_rate},
    ]
    return torch.optim.Adam(groups, fused=True)


def standardise_chunks(loss: ChunkReplayLoss, data: TensorDictBase) -> None:
    """Let critics that :meth:`Problem.make_chunk_qvalue` made read chunks as they vary in data."""
    chunks = loss.taken(data).flatten(1)
    for network in (loss.qvalue_network, loss.target_network):
        network.module.scaled.fit(chunks)
