"""A residual on each played action, learned off-policy: TD3 on single steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import TensorSpec

from modereg import keys
from modereg.decoding import ActionClip, ChunkDecoder
from modereg.errors import ConfigurationError
from modereg.objectives.residual import ChunkResidualLoss
from modereg.residual import StepResidual
from modereg.steering import SteeringPolicy

__all__ = ["StepResidualLoss"]

NOISE_CLIP = 2.5
"""Standard deviations at which the noise in the target is clipped, as in TD3 (.5 of .2)."""


class StepResidualLoss(ChunkResidualLoss):
    r"""Moves each action of a steered policy to where a critic values it, seeing what is played.

    ResFiT (arXiv 2509.19301): TD3 on single environment steps, in which the base's action a is
    a part of the state. ``loss_qvalue`` is :math:`E (Q_i(s, a + u) - y)^2`, summed over the
    ensemble, with

    .. math::
        y = r + \gamma^n (1 - d) \, \min_{i \in I} \bar Q_i(s', a' + u(\bar m' + \epsilon)), \quad
        \epsilon \sim \mathrm{clip}(N(0, \sigma_s^2 I), \pm 2.5 \sigma_s),

    :math:`\bar m` being the target network of the policy and I a random subset of the ensemble; d
    is ``terminated`` alone. ``loss_actor`` is :math:`- E Q(s, a + u(m)) / \overline{|Q|}`, by the
    mean of all members, plus a KL to the residual at the start, of the noise by which it explores,
    as :class:`ChunkResidualLoss` has it. What is played is clipped, in y too.

    Transitions have the base's action at both states, ``[*B, 1, A]``, and what was played in
    ``next``: :class:`~modereg.single_steps.StepRecorder` writes them. :meth:`explore` is its
    ``move``, given that action.

    Args:
        residual: u, whose network gives m.
        qvalue_network: reads the state and ``played_action``, and writes ``[*B, E]``; normalised
            layers keep it from growing where nothing was played.
        action: spec of an action ``[A]``, to whose bounds what is played is clipped.
        smoothing: sigma_s in standard deviations of the noise by which it explores.
        subset: members in I; None takes all.
        **options: of :class:`ChunkResidualLoss`; ``reduction`` is that of ``loss_actor``.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys(ChunkResidualLoss._AcceptedKeys):
        """Keys that :meth:`set_keys` accepts."""

        base: NestedKey = keys.BASE_ACTION
        executed: NestedKey = keys.PLAYED

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    target_actor_network: SteeringPolicy

    def __init__(
        self,
        residual: StepResidual,
        qvalue_network: TensorDictModuleBase,
        action: TensorSpec,
        *,
        smoothing: float = 1.0,
        subset: int | None = None,
        **options: Any,
    ) -> None:
        options = {"reduction": "mean"} | options
        clip = cast(ChunkDecoder, ActionClip(action))  # nothing of it is decoded
        super().__init__(residual, None, qvalue_network, clip, **options)
        self.set_keys(base=residual.base_key)
        if not 0.0 <= smoothing < float("inf"):
            raise ConfigurationError(f"expected smoothing of at least 0, got {smoothing}")
        if subset is not None and subset < 1:
            raise ConfigurationError(f"expected a subset of at least 1 member, got {subset}")
        self.target_actor_network = copy.deepcopy(residual.network).requires_grad_(False)
        self.smoothing, self.subset = smoothing, subset

    def next_taken(self, after: TensorDictBase) -> Tensor:
        """Return what would be played afterwards, with the noise of the target."""
        mean = self.target_actor_network.distribution(after).mean
        noise = torch.randn_like(mean).clamp(-NOISE_CLIP, NOISE_CLIP)
        return self._moved(self._base(after), mean + self.smoothing * self.std * noise)

    def bootstrapped(self, values: Tensor) -> Tensor:
        """Return the least of a random subset of the ensemble, ``[n]`` of ``[n, E]``."""
        members = values.shape[-1]
        if self.subset is not None and self.subset < members:
            values = values[..., torch.randperm(members, device=values.device)[: self.subset]]
        return values.amin(-1)

    def _played(self, state: TensorDictBase, mean: Tensor) -> Tensor:
        return self._moved(self._base(state), mean)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Move the target networks of critic and policy by tau towards them."""
        super().update_target(tau)
        target = list(self.target_actor_network.parameters())
        torch._foreach_lerp_(target, list(self.actor_network.parameters()), tau)
