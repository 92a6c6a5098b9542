"""A residual on the base's chunks, learned off-policy from a critic of what was played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from modereg.decoding import ChunkDecoder
from modereg.devices import module_device
from modereg.errors import ConfigurationError
from modereg.objectives.replay import ChunkReplayLoss
from modereg.reading import require
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy

__all__ = ["ChunkResidualLoss"]


class ChunkResidualLoss(ChunkReplayLoss):
    r"""Moves the chunks of a steered policy, which stays as it is, to where a critic values them.

    As in Policy Decorator (arXiv 2412.13630) the critic values the *sum*, what was executed, and
    the residual is bounded; here it moves along the directions in which the base's own chunks vary,
    behind the same codes (:class:`~modereg.residual.ChunkResidual`). ``loss_qvalue`` is
    :math:`E (Q_i(s, a) - y)^2`, summed over the ensemble, with

    .. math::
        y = r + \gamma^n (1 - d) \, \min_i \bar Q_i(s', D(s', w') + u(m'))

    where w' is drawn from the steering policy and m' from :math:`N(\mu(s', z), \sigma^2 I)`; d is
    ``terminated`` alone, n the environment steps of the decision, and no entropy is in the backup.
    What is played is clipped, in y too. ``loss_actor`` is

    .. math::
        E [ - \min_i Q_i(s, D(s, w) + u(m)) / \overline{|Q|}
        + \beta \, |\mu - \mu_0|^2 / 2 \sigma^2 ],

    by the gradient of m: no gradient of the decoder is needed. D(s, w) is drawn from the steering
    policy, which stays as it is, so a draw of :meth:`base_chunk` may be stored with each state, as
    Policy Decorator stores the base's actions: then no step decodes. The second term is the KL to
    the residual as it was when the loss was made, and the mean size of Q makes its weight
    independent of the reward's scale.

    Args:
        residual: u, whose network gives mu.
        steering_network: psi(w | s, z), which is not learned; None where the base's chunks always
            stand with the states.
        qvalue_network: reads what psi reads and ``executed_chunk``, and writes ``[*B, E]``.
        decoder: D, a :class:`~modereg.decoding.ChunkDecoder`; no part of the parameters and state.
        spread: root mean square length of the noise on m, in bounds of the residual: sigma is
            ``spread * bound / sqrt(k)`` of k directions.
        **options: of :class:`~modereg.objectives.ReplayLoss`; ``kl_coef`` is beta.

    Attributes:
        share: of the decisions that :meth:`explore` moves by what is learned.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys(ChunkReplayLoss._AcceptedKeys):
        """Keys that :meth:`set_keys` accepts."""

        base: NestedKey = "base_chunk"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    residual: ChunkResidual
    steering_network: SteeringPolicy | None

    def __init__(
        self,
        residual: ChunkResidual,
        steering_network: SteeringPolicy | None,
        qvalue_network: TensorDictModuleBase,
        decoder: ChunkDecoder,
        *,
        spread: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(residual.network, qvalue_network, decoder, **options)
        if not 0.0 < spread < float("inf"):
            raise ConfigurationError(f"expected spread above 0 and finite, got {spread}")
        self.residual, self.steering_network = residual, steering_network
        self.std = spread * residual.bound / len(residual.directions) ** 0.5
        self.share = 1.0

    @property
    def state_keys(self) -> list[NestedKey]:
        """Entries of a state that are read: those of residual, steering policy and decoder."""
        steered = [] if self.steering_network is None else self.steering_network.in_keys
        return list(dict.fromkeys([*super().state_keys, *steered]))

    def _written_keys(self) -> list[str]:
        return [*super()._written_keys(), "residual_length"]

    @torch.no_grad()
    def explore(self, state: TensorDictBase, chunk: Tensor) -> Tensor:
        """Return a chunk ``[*B, H, A]`` as it is played while the residual is learned.

        It takes the residual's place in :class:`~modereg.transforms.NoiseAction`. A share of the
        decisions is moved by a draw of what is learned, the others as they were at the start:
        Policy Decorator's progressive exploration, where ``share`` grows with what was collected.
        """
        read = state.select(*self.actor_network.in_keys).to(module_device(self.residual))
        mean = self.drawn(self.actor_network.distribution(read).mean)
        before = self.start_network.distribution(read).mean
        learned = torch.rand(mean.shape[:-1], device=mean.device) < self.share
        mean = torch.where(learned.unsqueeze(-1), mean, before)
        return self.residual.moved(chunk, self.residual.bounded(mean))

    def drawn(self, mean: Tensor) -> Tensor:
        """Return m ``[*B, k]``, drawn around its mean."""
        return mean + self.std * torch.randn_like(mean)

    def next_taken(self, after: TensorDictBase) -> Tensor:
        """Return chunks that are played afterwards."""
        return self._played(after, self.actor_network.distribution(after).mean)

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return what :meth:`anchored` does of states; the critic gets no gradient of it.

        ``residual_length`` is the mean length of u, in bounds.
        """
        mean = self.actor_network.distribution(data).mean
        gain = self.climb(self.qvalue_network, data, self._played(data, mean))
        away = (mean - self.start_network.distribution(data).mean) / self.std
        length = self.residual.bounded(mean.detach()).norm(dim=-1).mean() / self.residual.bound
        losses = self.anchored(gain, 0.5 * away.square().sum(-1).mean())
        return losses | {"residual_length": length}

    @torch.no_grad()
    def base_chunk(self, state: TensorDictBase) -> Tensor:
        """Return a draw of D(s, w), ``[n, H, A]``, to store with states as ``base_chunk``."""
        if self.steering_network is None:
            return require(state, self.tensor_keys.base, type(self).__name__)
        return self.decoder.decode(state, self.steering_network.distribution(state).sample())

    def _played(self, state: TensorDictBase, mean: Tensor) -> Tensor:
        return self._moved(self._base(state), self.drawn(mean))

    def _base(self, state: TensorDictBase) -> Tensor:
        chunk = state.get(self.tensor_keys.base, None)
        return self.base_chunk(state) if chunk is None else chunk

    def _moved(self, chunk: Tensor, shift: Tensor) -> Tensor:
        """Return what is executed of the base's chunk, moved by m, ``[n, k]``."""
        return self.decoder.executed(self.residual.moved(chunk, self.residual.bounded(shift)))
