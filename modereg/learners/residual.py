"""A residual on the base's chunks by off-policy actor-critic; the steering policy stays."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from modereg.decoding import ChunkDecoder
from modereg.discovery.chunk_features import ChunkFeatures
from modereg.discovery.outcome import observe
from modereg.discovery.release import release
from modereg.errors import ConfigurationError
from modereg.learners.base import Problem
from modereg.learners.config import ResidualConfig
from modereg.learners.demonstrated import DemonstratedLearner
from modereg.learners.replay import loss_options, standardise_chunks
from modereg.objectives import ChunkResidualLoss
from modereg.reading import in_next
from modereg.residual import ChunkResidual

__all__ = ["Residual"]

BOUND, DIRECTIONS = 0.5, 8
"""Of a residual that is new."""


class Residual(DemonstratedLearner):
    """Learns a critic of what was played, and a residual on the chunks from it.

    Between batches the environment plays the residual's mean; while it collects, a growing share
    of the decisions is moved by a draw of it. A residual that stage 1 gave is gone on from, and the
    codes that it did not move are moved too; the directions of a new one are told from the prefill.

    Args:
        problem: what is improved.
        config: options.
    """

    loss: ChunkResidualLoss

    def __init__(self, problem: Problem, config: ResidualConfig) -> None:
        self.is_new = problem.env.residual is None
        self.residual = _residual(problem, config)
        problem.env.set_residual(self.residual)
        self.explore = config.explore
        loss = ChunkResidualLoss(
            self.residual,
            problem.steering,
            problem.make_chunk_qvalue(config.critics),
            ChunkDecoder(problem.env),
            spread=config.spread,
            **loss_options(problem, config),
        )
        actor = self.residual.network.head.network.parameters()
        critic = loss.qvalue_network.parameters()
        optimizers = {
            "actor": torch.optim.Adam(actor, config.learning_rate, fused=True),
            "critic": torch.optim.Adam(critic, config.critic_learning_rate, fused=True),
        }
        super().__init__(problem, config, loss, optimizers)
        needed = [*loss.actor_network.in_keys, *self.paid_by]
        spare = [
            key for key in loss.state_keys if key not in needed
        ]  # what the decoder alone reads
        base = loss.tensor_keys.base
        self.stored = [key for key in self.read if key not in spare + list(map(in_next, spare))]
        self.stored += [base, in_next(base)]

    def prepared(self, data: TensorDictBase) -> TensorDictBase:
        """Add a draw of the base's chunk at both states, so that no gradient step decodes."""
        base = self.loss.tensor_keys.base
        for state in (data, data.get("next")):
            state.set(base, self.loss.base_chunk(state))
        return data

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]``, in which the residual is explored."""
        self.loss.share = min(max(self.kept - self.config.prefill, 0) / self.explore, 1.0)
        self.problem.env.set_residual(self.loss.explore)
        try:
            return super().collect()
        finally:
            self.problem.env.set_residual(self.residual)

    def begin(self) -> None:
        """Standardise the chunks that the critic reads, and let the residual move every code."""
        data = self.kept_rows()
        standardise_chunks(self.loss, data)
        network = self.residual.network
        if self.is_new:
            observed, chunks = observe(data, network.observation_keys), self.loss.taken(data)
            number = len(self.residual.directions)
            found = ChunkFeatures(observed, chunks.float(), share=1.0, most=number).directions
            self.residual.directions[: len(found)].copy_(found)
        elif not bool(network.head.steered.all()):
            release(network, data)
            self.loss.start_network.load_state_dict(network.state_dict())


def _residual(problem: Problem, config: ResidualConfig) -> ChunkResidual:
    """Return the residual of the environment, or a new one that moves nothing.

    Raises:
        ConfigurationError: if there is one, and options ask for another.
    """
    there = problem.env.residual
    if there is None:
        return problem.make_residual(config.directions or DIRECTIONS, config.bound or BOUND)
    asked = {"bound": config.bound, "directions": config.directions}
    found = {"bound": there.bound, "directions": len(there.directions)}
    others = [name for name, value in asked.items() if value not in (None, found[name])]
    if others:
        raise ConfigurationError(
            f"expected {' and '.join(others)} of the residual that the start brings, "
            f"{ {name: found[name] for name in others} }, got "
            f"{ {name: asked[name] for name in others} }; leave them out"
        )
    return there
