"""Steering by a critic of what was played: DSRL with noise aliasing."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from modereg.decoding import ChunkDecoder
from modereg.errors import ConfigurationError
from modereg.objectives.replay import ChunkReplayLoss
from modereg.steering import SteeringPolicy

__all__ = ["DSRLLoss"]


class DSRLLoss(ChunkReplayLoss):
    r"""DSRL with noise aliasing (arXiv 2506.15799, 4.2): one critic of chunks, and one of noises.

    The first learns from what was executed, :math:`a`, so that it needs no noise: any transition
    serves, of the base or of demonstrations. ``loss_qvalue`` is
    :math:`E (Q^A_i(s, a) - y)^2`, summed over the ensemble, with

    .. math::
        y = r + \gamma^n (1 - d) \, \min_i \bar Q^A_i(s', D(s', w')),
        \quad w' \sim \psi(\cdot | s', z),

    D being the frozen policy's decoder as the environment plays it; d is ``terminated`` alone, n
    the environment steps of the decision, and no entropy is in the backup. The second is distilled
    from the first, member by member: ``loss_noise_qvalue`` is

    .. math:: E (Q^W_i(s, w) - Q^A_i(s, D(s, w)))^2,

    and needs no target network, since it bootstraps from nothing. ``loss_actor`` is that of
    :class:`NoiseSACLoss` on it. Its noises are drawn from a mixture, N(0, I) with probability
    ``prior_share`` and else from psi: from N(0, I) alone the critic would not know where a policy
    that has narrowed down is, and from psi alone not where it could go.

    Args:
        actor_network: psi(w | s, z).
        qvalue_network: Q^A; reads what psi reads and ``executed_chunk``, and writes ``[*B, E]``.
        noise_qvalue_network: Q^W; reads what psi reads and the noise, and writes ``[*B, E]``.
        decoder: D, a :class:`~modereg.decoding.ChunkDecoder`; no part of the parameters and state.
        prior_share: share of the distilled noises that are drawn from N(0, I).
        draws: noises that are distilled at each state. Each costs a pass of the decoder.
        **options: of :class:`~modereg.objectives.ReplayLoss`.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    noise_qvalue_network: TensorDictModuleBase

    def __init__(
        self,
        actor_network: SteeringPolicy,
        qvalue_network: TensorDictModuleBase,
        noise_qvalue_network: TensorDictModuleBase,
        decoder: ChunkDecoder,
        *,
        prior_share: float = 0.5,
        draws: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, qvalue_network, decoder, **options)
        if not 0.0 <= prior_share <= 1.0:
            raise ConfigurationError(f"expected prior_share in [0, 1], got {prior_share}")
        if draws < 1:
            raise ConfigurationError(f"expected draws of at least 1, got {draws}")
        self.noise_qvalue_network = noise_qvalue_network
        self.prior_share, self.draws = prior_share, draws

    def _written_keys(self) -> list[Any]:
        return [*super()._written_keys(), "loss_noise_qvalue"]

    def _losses(self, data: TensorDictBase) -> dict[str, Tensor]:
        return super()._losses(data) | self.distillation_loss(data)

    def distillation_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return ``loss_noise_qvalue`` of states; the critic of chunks gets no gradient of it."""
        states = torch.cat([data.select(*self.state_keys).reshape(-1)] * self.draws)
        with torch.no_grad():
            noise = self.distilled_noise(states)
            target = self.values(self.qvalue_network, states, self.decoder(states, noise))
        critic, key = self.noise_qvalue_network, self.tensor_keys.action
        error = self.values(critic, states, noise, key) - target
        return {"loss_noise_qvalue": error.square().sum(-1).mean()}

    def distilled_noise(self, states: TensorDictBase) -> Tensor:
        """Return noises ``[n, *noise_shape]`` of the mixture at states ``[n]``, without a graph."""
        drawn = self.actor_network.distribution(states).sample()
        rows = torch.rand(len(drawn), device=drawn.device) < self.prior_share
        return torch.where(rows.view(-1, *[1] * (drawn.ndim - 1)), torch.randn_like(drawn), drawn)

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return what :meth:`anchored` does of states; no critic gets a gradient of it."""
        return self.steered_loss(self.noise_qvalue_network, data)
