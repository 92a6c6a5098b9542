"""Soft actor-critic on noise: off-policy, with a hard backup and a base policy to stay near."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives.utils import hold_out_net

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.objectives._base import PlainLoss
from modereg.reading import evaluate, in_next, require, valid_rows
from modereg.steering import SteeringPolicy

__all__ = ["NoiseSACLoss"]

Reduction = Literal["min", "mean"]


class NoiseSACLoss(PlainLoss):
    r"""Soft actor-critic on the noise of a frozen policy, after DSRL (arXiv 2506.15799, 4.1).

    ``loss_qvalue`` is :math:`E (Q_i(s, w) - y)^2`, summed over the ensemble, with

    .. math::
        y = r + \gamma^n (1 - d) \, \min_i \bar Q_i(s', w'), \quad w' \sim \psi(\cdot | s', z),

    d being ``terminated`` alone, so that a value is bootstrapped where time ran out, and n the
    environment steps of the decision. The backup is hard: no entropy is in it, since what is
    maximised is the return. ``loss_actor`` is

    .. math::
        E [ - \min_i Q_i(s, w) / \overline{|Q|} + \beta \, KL(\psi \| \psi_0) ],
        \quad w \sim \psi(\cdot | s, z),

    by the gradient of w, psi_0 being the policy as it was when the loss was made: N(0, I), the
    base, or what stage 1 gave. The mean :math:`\overline{|Q|}` over the batch (TD3+BC, arXiv
    2106.06860, Eq. 5) makes the weight of the KL independent of the reward's scale. The KL takes
    the place of SAC's entropy: it holds the noise where the critic has seen some, and where the
    frozen policy was trained. SAC's tanh is not needed: psi's mean is bounded smoothly, and so is
    its standard deviation.

    Args:
        actor_network: psi(w | s, z).
        qvalue_network: reads what psi reads and the noise, and writes ``[*B, E]``, one value of
            each member.
        gamma: discount of one environment step.
        kl_coef: beta.
        reduction: of the ensemble: ``min``, or ``mean`` for one of many members.

    ``qvalue_network`` is held as it is; ``target_network`` is a copy of it, which
    :meth:`update_target` moves, and ``start_network`` one of the policy, which stays.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` accepts."""

        action: NestedKey = keys.ACTION
        state_action_value: NestedKey = "state_action_value"
        reward: NestedKey = keys.REWARD
        terminated: NestedKey = "terminated"
        steps: NestedKey = keys.STEPS

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    actor_network: SteeringPolicy
    qvalue_network: TensorDictModuleBase
    target_network: TensorDictModuleBase
    start_network: SteeringPolicy

    def __init__(
        self,
        actor_network: SteeringPolicy,
        qvalue_network: TensorDictModuleBase,
        *,
        gamma: float,
        kl_coef: float = 0.01,
        reduction: Reduction = "min",
    ) -> None:
        super().__init__()
        if reduction not in ("min", "mean"):
            raise ConfigurationError(f"expected reduction 'min' or 'mean', got {reduction!r}")
        if not 0.0 <= gamma <= 1.0:
            raise ConfigurationError(f"expected a discount in [0, 1], got {gamma}")
        if not kl_coef >= 0.0:
            raise ConfigurationError(f"expected kl_coef of at least 0, got {kl_coef}")
        self.actor_network, self.qvalue_network = actor_network, qvalue_network
        self.target_network = copy.deepcopy(qvalue_network).requires_grad_(False)
        self.start_network = copy.deepcopy(actor_network).requires_grad_(False)
        self.gamma, self.kl_coef, self.reduction = gamma, kl_coef, reduction

    def _read_keys(self) -> list[NestedKey]:
        accepted, read = self.tensor_keys, self.actor_network.in_keys
        after = [accepted.reward, accepted.terminated, accepted.steps, *read]
        return [*read, accepted.action, *map(in_next, after)]

    def _written_keys(self) -> list[NestedKey]:
        return ["loss_qvalue", "loss_actor", "loss_kl", "qvalue"]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses of a batch, and figures.

        Args:
            tensordict: transitions ``[*B]``; rows with a false ``("collector", "mask")`` are left
                out.

        Returns:
            Scalars: ``out_keys``. ``loss_kl`` is beta times the KL, and a part of ``loss_actor``.

        Raises:
            KeyMismatchError: if an entry is missing.
        """
        valid = valid_rows(tensordict)
        data = tensordict if valid is None else tensordict[valid]
        return TensorDict(self.critic_loss(data) | self.actor_loss(data))

    def critic_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return ``loss_qvalue`` and ``qvalue``, the mean value, of transitions."""
        action = require(data, self.tensor_keys.action, "SAC")
        values = self._values(self.qvalue_network, data, action)
        error = values - self.target(data).unsqueeze(-1)
        return {"loss_qvalue": error.square().sum(-1).mean(), "qvalue": values.detach().mean()}

    @torch.no_grad()
    def target(self, data: TensorDictBase) -> Tensor:
        """Return y of transitions, ``[n]``."""
        accepted, after = self.tensor_keys, data.get("next")
        reward = require(after, accepted.reward, "SAC").squeeze(-1)
        ended = require(after, accepted.terminated, "SAC").squeeze(-1)
        steps = require(after, accepted.steps, "SAC").squeeze(-1)
        noise = self.actor_network.distribution(after).rsample()
        value = self._reduced(self._values(self.target_network, after, noise))
        return reward + self.gamma**steps * value.masked_fill(ended, 0.0)

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return ``loss_actor`` and ``loss_kl`` of states; the critic gets no gradient of it."""
        dist = self.actor_network.distribution(data)
        with hold_out_net(self.qvalue_network):
            value = self._reduced(self._values(self.qvalue_network, data, dist.rsample()))
        scale = value.detach().abs().mean().clamp_min(1e-6)
        kl = self.kl_coef * dist.kl_to(self.start_network.distribution(data)).mean()
        return {"loss_actor": kl - value.mean() / scale, "loss_kl": kl.detach()}

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Move the target network by tau towards the critic."""
        target = list(self.target_network.parameters())
        torch._foreach_lerp_(target, list(self.qvalue_network.parameters()), tau)

    def _values(self, network: TensorDictModuleBase, data: TensorDictBase, noise: Tensor) -> Tensor:
        read = data.select(*self.actor_network.in_keys).set(self.tensor_keys.action, noise)
        return evaluate(network, read, self.tensor_keys.state_action_value, reader="the critic")

    def _reduced(self, values: Tensor) -> Tensor:
        return values.amin(-1) if self.reduction == "min" else values.mean(-1)
