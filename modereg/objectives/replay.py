"""What off-policy losses share: TD learning with a hard backup, and an actor that climbs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives.utils import hold_out_net

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.devices import module_device
from modereg.errors import ConfigurationError
from modereg.objectives._base import PlainLoss
from modereg.reading import evaluate, in_next, require, valid_rows
from modereg.steering import SteeringPolicy

__all__ = ["ChunkReplayLoss", "ReplayLoss"]

Reduction = Literal["min", "mean"]

DUAL_RATE, DUAL_RANGE = 0.003, (1e-6, 1e3)
"""Largest step of the logarithm of a KL's weight that has a target, and the range of the weight."""


class ReplayLoss(PlainLoss):
    r"""An ensemble of critics of what was done, and an actor that stays near where it began.

    ``loss_qvalue`` is :math:`E (Q_i(s, x) - y)^2`, summed over the ensemble, with

    .. math:: y = r + \gamma^n (1 - d) \, \min_i \bar Q_i(s', x'),

    d being ``terminated`` alone, so that a value is bootstrapped where time ran out, and n the
    environment steps of the decision. The backup is hard: no entropy is in it, since what is
    maximised is the return. What x is, and what x' is drawn from, a subclass says, by :meth:`taken`
    and :meth:`next_taken`; it writes :meth:`actor_loss` too, from :meth:`climb`.

    Args:
        actor_network: what is learned from the critic; it and the start's copy of it are held.
        qvalue_network: reads the state and x, and writes ``[*B, E]``, one value of each member.
        gamma: discount of one environment step.
        kl_coef: weight of the KL to the start, the first of several where there is a target.
        kl_target: KL to the start that is aimed at, nats; :meth:`update_kl` finds the weight, as
            LP-DS finds that of its trust region (arXiv 2606.01151). None leaves the weight.
        reduction: of the ensemble: ``min``, or ``mean`` for one of many members.

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
    start_network: SteeringPolicy
    qvalue_network: TensorDictModuleBase
    target_network: TensorDictModuleBase
    kl_weight: Tensor

    def __init__(
        self,
        actor_network: SteeringPolicy,
        qvalue_network: TensorDictModuleBase,
        *,
        gamma: float,
        kl_coef: float = 0.01,
        kl_target: float | None = None,
        reduction: Reduction = "min",
    ) -> None:
        super().__init__()
        if reduction not in ("min", "mean"):
            raise ConfigurationError(f"expected reduction 'min' or 'mean', got {reduction!r}")
        if not 0.0 <= gamma <= 1.0:
            raise ConfigurationError(f"expected a discount in [0, 1], got {gamma}")
        if not kl_coef >= 0.0:
            raise ConfigurationError(f"expected kl_coef of at least 0, got {kl_coef}")
        if kl_target is not None and not (kl_target > 0.0 and kl_coef > 0.0):
            raise ConfigurationError(
                "expected kl_target above 0, and kl_coef above 0, where its weight begins, got "
                f"{kl_target} and {kl_coef}"
            )
        self.actor_network, self.qvalue_network = actor_network, qvalue_network
        self.target_network = copy.deepcopy(qvalue_network).requires_grad_(False)
        self.start_network = copy.deepcopy(actor_network).requires_grad_(False)
        self.gamma, self.kl_target, self.reduction = gamma, kl_target, reduction
        weight = torch.tensor(kl_coef, device=module_device(actor_network))
        self.register_buffer("kl_weight", weight)

    # --- what a subclass says

    @property
    def state_keys(self) -> list[NestedKey]:
        """Entries of a state that are read, at the root and in ``next``."""
        return self.actor_network.in_keys

    @property
    def taken_key(self) -> NestedKey:
        """Entry under which critics read x."""
        return self.tensor_keys.action

    def taken(self, data: TensorDictBase) -> Tensor:
        """Return x of transitions, ``[n, ...]``."""
        raise NotImplementedError

    def next_taken(self, after: TensorDictBase) -> Tensor:
        """Return x' of the states that transitions led to, ``[n, ...]``, drawn without a graph."""
        raise NotImplementedError

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return what :meth:`anchored` does of states; no critic gets a gradient of it."""
        raise NotImplementedError

    # --- what they share

    def _read_keys(self) -> list[NestedKey]:
        accepted, read = self.tensor_keys, self.state_keys
        after = [accepted.reward, accepted.terminated, accepted.steps, *read]
        return [*read, *map(in_next, after)]

    def _written_keys(self) -> list[NestedKey]:
        return ["loss_qvalue", "loss_actor", "loss_kl", "kl", "qvalue"]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return all losses of a batch, and figures.

        Args:
            tensordict: transitions ``[*B]``; rows with a false ``("collector", "mask")`` are left
                out.

        Returns:
            Scalars: ``out_keys``. ``kl`` is the KL to the start, nats, and ``loss_kl`` the same
            weighted, which is a part of ``loss_actor``.

        Raises:
            KeyMismatchError: if an entry is missing.
        """
        valid = valid_rows(tensordict)
        return TensorDict(self._losses(tensordict if valid is None else tensordict[valid]))

    def _losses(self, data: TensorDictBase) -> dict[str, Tensor]:
        return self.critic_loss(data) | self.actor_loss(data)

    def critic_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return ``loss_qvalue`` and ``qvalue``, the mean value, of transitions."""
        values = self.values(self.qvalue_network, data, self.taken(data))
        error = values - self.target(data).unsqueeze(-1)
        return {"loss_qvalue": error.square().sum(-1).mean(), "qvalue": values.detach().mean()}

    @torch.no_grad()
    def target(self, data: TensorDictBase) -> Tensor:
        """Return y of transitions, ``[n]``."""
        accepted, after, reader = self.tensor_keys, data.get("next"), type(self).__name__
        reward = require(after, accepted.reward, reader).squeeze(-1)
        ended = require(after, accepted.terminated, reader).squeeze(-1)
        steps = require(after, accepted.steps, reader).squeeze(-1)
        value = self.bootstrapped(self.values(self.target_network, after, self.next_taken(after)))
        return reward + self.gamma**steps * value.masked_fill(ended, 0.0)

    def bootstrapped(self, values: Tensor) -> Tensor:
        """Return the value of x' in y, ``[n]``, of what each member gives it, ``[n, E]``."""
        return self._reduced(values)

    def climb(
        self,
        critic: TensorDictModuleBase,
        data: TensorDictBase,
        taken: Tensor,
        key: NestedKey | None = None,
    ) -> Tensor:
        """Return minus the mean of :meth:`values`, over its mean size; the critic has no gradient.

        The arguments are those of :meth:`values`.
        """
        with hold_out_net(critic):
            value = self._reduced(self.values(critic, data, taken, key))
        return -value.mean() / value.detach().abs().mean().clamp_min(1e-6)

    def steered_loss(self, critic: TensorDictModuleBase, data: TensorDictBase) -> dict[str, Tensor]:
        """Return :meth:`actor_loss` of a steering policy that climbs a critic of its noise."""
        dist, accepted = self.actor_network.distribution(data), self.tensor_keys
        gain = self.climb(critic, data, dist.rsample(), accepted.action)
        return self.anchored(gain, dist.kl_to(self.start_network.distribution(data)).mean())

    def anchored(self, gain: Tensor, divergence: Tensor) -> dict[str, Tensor]:
        """Return ``loss_actor``, ``loss_kl`` and ``kl``.

        Args:
            gain: of :meth:`climb`.
            divergence: KL of the policy to the start, nats, a mean over states.
        """
        kl = self.kl_weight * divergence
        return {"loss_actor": kl + gain, "loss_kl": kl.detach(), "kl": divergence.detach()}

    @torch.no_grad()
    def update_kl(self, divergence: Tensor) -> None:
        """Raise the weight of the KL where the policy is further than ``kl_target``, else lower it.

        Args:
            divergence: ``kl`` of the step before.
        """
        if self.kl_target is not None:
            off = (divergence / self.kl_target - 1.0).clamp(-1.0, 1.0)
            self.kl_weight.mul_((DUAL_RATE * off).exp()).clamp_(*DUAL_RANGE)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Move the target network by tau towards the critic."""
        target = list(self.target_network.parameters())
        torch._foreach_lerp_(target, list(self.qvalue_network.parameters()), tau)

    def values(
        self,
        critic: TensorDictModuleBase,
        data: TensorDictBase,
        taken: Tensor,
        key: NestedKey | None = None,
    ) -> Tensor:
        """Return what each member of a critic gives x at states, ``[n, E]``.

        Args:
            critic: one of the networks.
            data: states ``[n]``.
            taken: x, ``[n, ...]``.
            key: entry under which it reads x; None is :attr:`taken_key`.
        """
        state = data.select(*self.actor_network.in_keys)
        read = state.set(self.taken_key if key is None else key, taken)
        return evaluate(critic, read, self.tensor_keys.state_action_value, reader="the critic")

    def _reduced(self, values: Tensor) -> Tensor:
        return values.amin(-1) if self.reduction == "min" else values.mean(-1)


class ChunkReplayLoss(ReplayLoss):
    """A critic of the chunks that were executed, whoever chose them and by whatever noise.

    Args:
        actor_network: what is learned from the critic, or what draws the noise.
        qvalue_network: reads the state and ``executed_chunk`` ``[*B, e, A]``.
        decoder: what is executed of an action; no part of the loss's parameters and state.
        **options: of :class:`ReplayLoss`.
    """

    @dataclass
    class _AcceptedKeys(ReplayLoss._AcceptedKeys):
        """Keys that :meth:`set_keys` accepts."""

        executed: NestedKey = keys.EXECUTED

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        actor_network: SteeringPolicy,
        qvalue_network: TensorDictModuleBase,
        decoder: ChunkDecoder,
        **options: Any,
    ) -> None:
        super().__init__(actor_network, qvalue_network, **options)
        self.__dict__["_decoder"] = decoder

    @property
    def decoder(self) -> ChunkDecoder:
        """What is executed of an action."""
        return self.__dict__["_decoder"]

    @property
    def state_keys(self) -> list[NestedKey]:
        """Entries of a state that are read: the actor's and the decoder's."""
        return list(dict.fromkeys([*super().state_keys, *self.decoder.in_keys]))

    @property
    def taken_key(self) -> NestedKey:
        """Entry under which the critic reads a chunk."""
        return self.tensor_keys.executed

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), in_next(self.tensor_keys.executed)]

    def taken(self, data: TensorDictBase) -> Tensor:
        """Return the chunks that were executed."""
        return require(data, in_next(self.tensor_keys.executed), type(self).__name__)

    def next_taken(self, after: TensorDictBase) -> Tensor:
        """Return chunks of noise that the policy draws afterwards."""
        return self.decoder(after, self.actor_network.distribution(after).sample())
