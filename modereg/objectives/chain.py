"""Clipped PPO over the steps of a denoising chain, whose weights it trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from modereg import functional, keys
from modereg.errors import ConfigurationError
from modereg.objectives.ppo import MASKS, CriticLoss, LeanPPOLoss
from modereg.policies import DenoisingChain
from modereg.reading import require, valid_rows

__all__ = ["ChainPPOLoss"]


class ChainPPOLoss(LeanPPOLoss):
    r"""PPO on the weights of a denoiser: each step of the chain is an action (DPPO).

    Diffusion Policy Policy Optimization, arXiv 2409.00588, takes decisions and denoising steps as
    two layers of one problem. With the ratio of step i, :math:`r_i = p_\theta(x_{i+1} \mid x_i, s)
    / p_{old}`, and the advantage A of the decision, ``loss_objective`` is

    .. math:: -E \frac{1}{K'} \sum_{i=0}^{K'-1}
        \min(r_i A_i, \mathrm{clip}(r_i, 1 - \epsilon_i, 1 + \epsilon_i) A_i),
        \quad A_i = \gamma_{den}^{K'-1-i} A,

    i = 0 the noisiest. ``loss_kl`` is the KL of the whole chain to the base's,
    :math:`\sum_i |\mu_i - \mu_i^{base}|^2 / 2 \sigma_i^2`, times its coefficient, and
    ``loss_critic`` that of :class:`LeanPPOLoss`.

    A log-density is the *sum* over the numbers of a chunk, so that :math:`\epsilon` bounds the
    probability of a step as it is in PPO. DPPO takes their mean: its clip range of .01 is one of
    about .01 times their number here. All steps of all rows take one pass of the denoiser (and one
    of the base's for the KL), and :math:`r_i` is 1 before the first update.

    The stored chain is read (:class:`~modereg.policies.ChainRecorder` writes it), what the
    denoiser and the critic read, and the advantage and value target of TorchRL's ``GAE``.

    Args:
        chain: the policy; only its copy of the denoiser gets a gradient.
        critic_network: writes the value, ``[*B, 1]``.
        clip_epsilon: clip range of the last step.
        clip_first: clip range of the noisiest step, from which it grows to the last
            (:func:`~modereg.functional.denoising_clip`); None takes ``clip_epsilon`` for all.
        gamma_denoising: discount of a denoising step.
        critic_coeff: weight of the critic's loss.
        kl_coef: weight of the KL to the base's chain; 0 leaves the term out.
        loss_critic_type: distance of the value to its target.
        figures: whether ``clip_fraction`` and ``kl_approx`` are written beside the losses, means
            over steps, detached.

    Raises:
        ConfigurationError: if an option is out of range, or the chain has no noise.
    """

    @dataclass
    class _AcceptedKeys(LeanPPOLoss._AcceptedKeys):
        """Keys that :meth:`set_keys` accepts; the action is the chain."""

        action: NestedKey = keys.CHAIN
        sample_log_prob: NestedKey = keys.CHAIN_LOG_PROB

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    actor_network: DenoisingChain

    def __init__(
        self,
        chain: DenoisingChain,
        critic_network: TensorDictModuleBase,
        *,
        clip_epsilon: float = 0.1,
        clip_first: float | None = None,
        gamma_denoising: float = 0.99,
        critic_coeff: float = 1.0,
        kl_coef: float = 0.0,
        loss_critic_type: CriticLoss = "smooth_l1",
        figures: bool = True,
    ) -> None:
        super().__init__(
            chain,
            critic_network,
            clip_epsilon=clip_epsilon,
            entropy_coeff=0.0,
            critic_coeff=critic_coeff,
            kl_coef=kl_coef,
            loss_critic_type=loss_critic_type,
            figures=figures,
        )
        if clip_first is not None and not 0.0 < clip_first < 1.0:
            raise ConfigurationError(f"expected clip_first in (0, 1), got {clip_first}")
        if not 0.0 <= gamma_denoising <= 1.0:
            raise ConfigurationError(f"expected gamma_denoising in [0, 1], got {gamma_denoising}")
        if not bool((chain.std > 0).all()):
            raise ConfigurationError(
                f"expected a chain each of whose steps draws, got one with noise {chain.noise} and "
                f"standard deviations {[round(float(each), 4) for each in chain.std]}; raise its "
                "noise or its floor"
            )
        self.clip_first, self.gamma_denoising = clip_first, gamma_denoising

    def _seen_keys(self) -> list[NestedKey]:
        return self.actor_network.steered_entries

    def _written_keys(self) -> list[NestedKey]:
        losses = ["loss_objective", "loss_critic"] + ["loss_kl"] * bool(self.kl_coef)
        return [*losses, *(["clip_fraction", "kl_approx"] if self.figures else [])]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the losses and detached figures of a batch.

        Args:
            tensordict: ``[*B]`` transitions, with the advantage and value target, ``[*B, 1]``, the
                chain ``[*B, K' + 1, H, A]`` and its log-densities, ``[*B, K']``.

        Returns:
            Scalars: ``out_keys``.

        Raises:
            KeyMismatchError: if an entry is missing.
        """
        rows, valid = tensordict.reshape(-1), valid_rows(tensordict.reshape(-1), MASKS)
        rows = rows if valid is None else rows[valid]
        accepted, actor = self.tensor_keys, self.actor_network
        drawn = require(rows, accepted.action, "PPO")
        observed = [require(rows, key, "PPO") for key in actor.observation_entries(rows)]
        means = actor.means(drawn, *observed)
        before = require(rows, accepted.sample_log_prob, "PPO")
        log_weight = actor.log_prob(drawn, means) - before
        ranges, discounts = (each.to(log_weight) for each in self._schedules())
        advantage = require(rows, accepted.advantage, "PPO") * discounts  # [n, K']
        gain = functional.clipped_surrogate(log_weight, advantage, ranges.expand_as(advantage))
        out = {"loss_objective": -gain.mean(), "loss_critic": self._critic_loss(rows)}
        if self.kl_coef:
            away = self._kl(means, actor.base_means(drawn, *observed))
            out["loss_kl"] = self.kl_coef * away.sum(-1).mean()
        if self.figures:
            clipped = (log_weight.detach().exp() - 1.0).abs() > ranges
            out["clip_fraction"] = clipped.to(log_weight.dtype).mean()
            out["kl_approx"] = -log_weight.detach().mean()
        return TensorDict(out)

    def _schedules(self) -> tuple[Tensor, Tensor]:
        """Return clip range and discount of each step, ``[K']``, the noisiest first."""
        steps = self.actor_network.steps
        first = self.clip_epsilon if self.clip_first is None else self.clip_first
        ranges = functional.denoising_clip(first, self.clip_epsilon, steps)
        return ranges, self.gamma_denoising ** torch.arange(steps - 1, -1, -1)

    def _kl(self, means: Tensor, others: Tensor) -> Tensor:
        std = self.actor_network.std.to(means).expand(means.shape[:2])
        return functional.gaussian_step_kl(means, others, std)
