"""A lean clipped PPO objective, equal to TorchRL's ``ClipPPOLoss`` on what both can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn import functional as F

from modereg import functional, keys
from modereg.errors import ConfigurationError
from modereg.objectives._base import PlainLoss
from modereg.reading import evaluate, require, valid_rows

__all__ = ["LeanPPOLoss"]

CriticLoss = Literal["smooth_l1", "l2", "l1"]
MASKS: tuple[NestedKey, ...] = (("collector", "mask"), "shifted_valid")
_DISTANCES = {"smooth_l1": F.smooth_l1_loss, "l2": F.mse_loss, "l1": F.l1_loss}


class LeanPPOLoss(PlainLoss):
    r"""Clipped PPO with an optional penalty for leaving the base policy.

    ``loss_objective`` is :math:`-E \min(r A, \mathrm{clip}(r) A)` (Schulman et al., Proximal Policy
    Optimization, arXiv 1707.06347, Eq. 7), ``loss_critic`` the distance of the value to its target,
    ``loss_entropy`` minus the entropy, and ``loss_kl`` :math:`KL(\psi \| N(0, I))`, each times its
    coefficient. The first three and their gradients are those of
    :class:`~torchrl.objectives.ClipPPOLoss`, whose keys it shares; what takes time there
    (functional parameters, copies of tensordicts) is left out, so there are no target networks, and
    the parameters are those of the networks themselves. The advantage must be there already, from
    TorchRL's ``GAE`` once a batch; rows that TorchRL marks invalid, by ``("collector", "mask")`` or
    GAE's ``"shifted_valid"``, are dropped.

    Args:
        actor_network: a :class:`~modereg.steering.SteeringPolicy`, or any actor with ``get_dist``.
        critic_network: writes the value, ``[*B, 1]``.
        clip_epsilon: clip range of the ratio.
        entropy_coeff: weight of the entropy; 0 leaves the term out.
        critic_coeff: weight of the critic's loss.
        kl_coef: weight of the KL to N(0, I); 0 leaves the term out. Needs a distribution with
            ``kl_to_standard_normal``, as a SteeringPolicy's.
        loss_critic_type: distance of the value to its target.
        figures: whether the detached figures are written beside the losses: ``entropy``,
            ``clip_fraction`` and ``kl_approx``, the mean of log old - log new probability.

    The coefficients, ``clip_epsilon`` and ``figures`` are attributes, which may be changed between
    calls.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts, as in ClipPPOLoss."""

        advantage: NestedKey = "advantage"
        value_target: NestedKey = "value_target"
        value: NestedKey = "state_value"
        sample_log_prob: NestedKey = "action_log_prob"
        action: NestedKey = keys.ACTION
        reward: NestedKey = keys.REWARD
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    actor_network: TensorDictModuleBase
    critic_network: TensorDictModuleBase

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        critic_network: TensorDictModuleBase,
        *,
        clip_epsilon: float = 0.2,
        entropy_coeff: float = 0.01,
        critic_coeff: float = 1.0,
        kl_coef: float = 0.0,
        loss_critic_type: CriticLoss = "smooth_l1",
        figures: bool = True,
    ) -> None:
        super().__init__()
        if loss_critic_type not in _DISTANCES:
            raise ConfigurationError(
                f"expected loss_critic_type of {sorted(_DISTANCES)}, got {loss_critic_type!r}"
            )
        if not 0.0 < clip_epsilon < 1.0:
            raise ConfigurationError(f"expected clip_epsilon in (0, 1), got {clip_epsilon}")
        self.actor_network, self.critic_network = actor_network, critic_network
        self.clip_epsilon, self.loss_critic_type = clip_epsilon, loss_critic_type
        self.entropy_coeff, self.critic_coeff, self.kl_coef = entropy_coeff, critic_coeff, kl_coef
        self.figures = figures

    def _read_keys(self) -> list[NestedKey]:
        accepted = self.tensor_keys
        own = [
            accepted.action,
            accepted.sample_log_prob,
            accepted.advantage,
            accepted.value_target,
        ]
        return list(dict.fromkeys([*self._seen_keys(), *self.critic_network.in_keys, *own]))

    def _seen_keys(self) -> list[NestedKey]:
        """Entries of a state that the actor reads."""
        return list(self.actor_network.in_keys)

    def _written_keys(self) -> list[NestedKey]:
        losses = ["loss_objective", "loss_critic"]
        losses += ["loss_entropy"] * bool(self.entropy_coeff) + ["loss_kl"] * bool(self.kl_coef)
        return [*losses, *(["entropy", "clip_fraction", "kl_approx"] if self.figures else [])]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the losses and detached figures of a batch.

        Args:
            tensordict: ``[*B]`` transitions, with the advantage and value target, ``[*B, 1]``.

        Returns:
            Scalars: ``out_keys``.

        Raises:
            KeyMismatchError: if an entry is missing.
        """
        valid = valid_rows(tensordict, MASKS)
        tensordict = tensordict if valid is None else tensordict[valid]
        accepted = self.tensor_keys
        dist = _distribution(self.actor_network, tensordict)
        action = require(tensordict, accepted.action, "PPO")
        log_weight = dist.log_prob(action) - require(tensordict, accepted.sample_log_prob, "PPO")
        advantage = require(tensordict, accepted.advantage, "PPO").squeeze(-1)
        gain = functional.clipped_surrogate(log_weight, advantage, self.clip_epsilon)
        out = {"loss_objective": -gain.mean(), "loss_critic": self._critic_loss(tensordict)}
        if self.entropy_coeff:
            out["loss_entropy"] = -self.entropy_coeff * dist.entropy().mean()
        if self.kl_coef:
            out["loss_kl"] = self.kl_coef * dist.kl_to_standard_normal().mean()
        if self.figures:
            out |= self._figures(dist, log_weight)
        return TensorDict(out)

    def _critic_loss(self, tensordict: TensorDictBase) -> Tensor:
        target = require(tensordict, self.tensor_keys.value_target, "PPO")
        value = evaluate(
            self.critic_network, tensordict, self.tensor_keys.value, reader="the critic"
        )
        return self.critic_coeff * _DISTANCES[self.loss_critic_type](value, target)

    @torch.no_grad()
    def _figures(self, dist: Any, log_weight: Tensor) -> dict[str, Tensor]:
        clipped = (log_weight.exp() - 1.0).abs() > self.clip_epsilon
        return {
            "entropy": dist.entropy().mean(),
            "clip_fraction": clipped.to(log_weight.dtype).mean(),
            "kl_approx": -log_weight.mean(),
        }


def _distribution(actor: TensorDictModuleBase, tensordict: TensorDictBase) -> Any:
    if hasattr(actor, "distribution"):
        return actor.distribution(tensordict)
    return actor.get_dist(tensordict.select(*actor.in_keys))
