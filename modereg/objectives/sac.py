"""Soft actor-critic on noise: off-policy, with a hard backup and a base policy to stay near."""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from modereg.objectives.replay import ReplayLoss
from modereg.reading import require

__all__ = ["NoiseSACLoss"]


class NoiseSACLoss(ReplayLoss):
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
        kl_coef: beta, the first of several where there is a target.
        kl_target: KL that is aimed at, nats; see :class:`~modereg.objectives.ReplayLoss`.
        reduction: of the ensemble: ``min``, or ``mean`` for one of many members.

    ``qvalue_network`` is held as it is; ``target_network`` is a copy of it, which
    ``update_target`` moves, and ``start_network`` one of the policy, which stays.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), self.tensor_keys.action]

    def taken(self, data: TensorDictBase) -> Tensor:
        """Return the noise of transitions."""
        return require(data, self.tensor_keys.action, "SAC")

    def next_taken(self, after: TensorDictBase) -> Tensor:
        """Return noise that the policy draws afterwards."""
        return self.actor_network.distribution(after).sample()

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return what :meth:`anchored` does of states; the critic gets no gradient of it."""
        return self.steered_loss(self.qvalue_network, data)
