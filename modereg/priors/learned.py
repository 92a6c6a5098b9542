"""Discrete codes whose probabilities are learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.priors.categorical import CategoricalPrior, entropy_of, largest_surprise_of

__all__ = ["LearnedPrior"]


class LearnedPrior(nn.Module, CategoricalPrior):
    r"""Discrete codes in ``[0, K)`` that are drawn more often the more they are worth.

    The parameter ``logits`` is trained by :meth:`loss` alone, with an optimiser of your own, as VIC
    trains its prior (Gregor et al., 2016, arXiv 1611.07507, Algorithm 1). With the reward
    :math:`\log q(z \mid s) - \log p(z)` it grows towards the input distribution that reaches the
    channel's capacity: codes that do the same share the probability of one. DIAYN keeps p uniform
    instead, because a learned one may forget codes before they have learned anything (Eysenbach et
    al., 2018, arXiv 1802.06070, Sec. 3.2).

    What everybody else reads is as it stands, in float64 on the CPU, and detached: no reward and no
    classifier's loss ever sends a gradient here. As H(p) falls, a reward in units of it grows;
    VIC's own is ``MIReward(..., normalize=False)``.

    **Who holds it.** An estimator holds it as a submodule, so its ``state_dict`` carries the logits
    and its ``parameters()`` yield them. They get no gradient from the estimator's loss, and
    optimisers pass over parameters without one, weight decay or not; but a shared optimiser's
    ``zero_grad`` also clears the gradient of :meth:`loss`, so call that, and step, in one go. An
    environment's :class:`~modereg.transforms.LatentConditioner` shares it and carries nothing.

    Args:
        logits: number of codes K, equally likely at first, or K finite logits.

    Raises:
        ConfigurationError: if there is no code, or a logit is not finite.
    """

    def __init__(self, logits: int | Tensor) -> None:
        super().__init__()
        if isinstance(logits, int):
            logits = torch.zeros(max(logits, 0))
        if logits.ndim != 1 or not logits.numel() or not bool(torch.isfinite(logits).all()):
            raise ConfigurationError(
                f"expected a number of codes of at least one or a vector of finite logits, got "
                f"logits of shape {tuple(logits.shape)}: {logits.tolist()}"
            )
        self.logits = nn.Parameter(logits.detach().clone().to(torch.get_default_dtype()))
        self.num_codes = self.feature_dim = logits.numel()

    @torch.no_grad()
    def weigh(self, probs: Tensor) -> None:
        """Go on learning from other probabilities, all positive, of the K codes.

        Raises:
            ConfigurationError: if they are not a distribution over K codes, or one is zero.
        """
        log_probs = CategoricalPrior(probs).log_probs
        if log_probs.shape != self.logits.shape or not bool(log_probs.isfinite().all()):
            raise ConfigurationError(
                f"expected positive probabilities of {self.num_codes} codes, got {probs.tolist()}"
            )
        self.logits.copy_(log_probs)

    @property
    def log_probs(self) -> Tensor:
        """log p(z) of every code as it stands, nats, ``[K]`` float64 on the CPU, detached."""
        return self.logits.detach().cpu().to(torch.float64).log_softmax(-1)

    @property
    def probs(self) -> Tensor:
        """p(z) of every code as it stands, ``[K]`` float64 on the CPU, detached."""
        return self.log_probs.exp()

    @property
    def entropy(self) -> float:
        """H(p) as it stands, nats."""
        return entropy_of(self.log_probs)

    @property
    def largest_surprise(self) -> float:
        """The largest -log p(z) as it stands, nats; no limit for good, since p is learned."""
        return largest_surprise_of(self.log_probs)

    def loss(self, latent: Tensor, reward: Tensor) -> Tensor:
        r"""Return :math:`-E[(r - b) \log p(z)]`, b the mean reward of the batch's other samples.

        Args:
            latent: codes that were drawn from this prior since its last step, ``[*B]`` int64.
            reward: what each was worth, nats, ``[*B]``: log q(z | s) - log p(z) at the episode's
                end, or its sum.

        Returns:
            A scalar; its gradient is in ``logits`` alone.

        Raises:
            ConfigurationError: if codes and rewards are not of one shape.
        """
        if latent.shape != reward.shape:
            raise ConfigurationError(
                f"expected one reward for each code, got codes of shape {tuple(latent.shape)} and "
                f"rewards of shape {tuple(reward.shape)}; squeeze the reward's last dimension"
            )
        latent, reward = latent.to(self.logits.device), reward.to(self.logits.device)
        return functional.score_function_loss(self.logits.log_softmax(-1)[latent], reward)

    def to_config(self) -> dict[str, Any]:
        """Return ``{"kind": "learned", "logits": [...]}``."""
        return {"kind": "learned", "logits": self.logits.tolist()}

    def __repr__(self) -> str:
        """Name the number of codes and how many there effectively are."""
        return f"LearnedPrior(num_codes={self.num_codes}, entropy={self.entropy:.3g} nats)"
