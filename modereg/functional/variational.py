r"""The variational bound with a classifier of discrete codes (Barber and Agakov, 2003).

BMD is Longhini et al., Behavioral Mode Discovery, arXiv 2605.11387.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "aliased_codes",
    "categorical_log_ratio",
    "inference_loss",
    "inference_nll",
    "merged_log_probs",
]


def categorical_log_ratio(
    logits: Tensor, latent: Tensor, log_prior: Tensor, groups: Tensor | None = None
) -> Tensor:
    r""":math:`\log q(z \mid s) - \log p(z)`, BMD Eq. 2: at most :math:`-\log p(z)`.

    Args:
        logits: of q, ``[*B, K]``; finite, of any size.
        latent: codes z, ``[*B]`` int64 in [0, K), of positive probability.
        log_prior: log p of every code, ``[K]``.
        groups: which group each code is of, ``[K]`` int64: then q and p are those of z's group,
            see :func:`merged_log_probs`. None is each of its own.

    Returns:
        ``[*B]`` nats, of the logits' dtype.
    """
    log_prior = log_prior.to(logits.dtype)
    if groups is not None:
        log_prior = merged_log_probs(log_prior, groups)
    return -inference_nll(logits, latent, groups) - log_prior[latent]


def merged_log_probs(log_probs: Tensor, groups: Tensor) -> Tensor:
    r""":math:`\log \sum_{z' \in G(z)} p(z')`: the probability of the group that each code is of.

    Args:
        log_probs: log-probability of every code, ``[*B, K]``; -inf where it is 0.
        groups: which group each code is of, ``[K]`` int64; those of one number are of one group.

    Returns:
        ``[*B, K]`` nats; alike for all codes of a group.
    """
    apart = groups.unsqueeze(-1) != groups
    return log_probs.unsqueeze(-2).masked_fill(apart, -torch.inf).logsumexp(-1)


def inference_nll(logits: Tensor, latent: Tensor, groups: Tensor | None = None) -> Tensor:
    r""":math:`-\log q(z \mid s)`: the cross entropy of each sample.

    Args:
        logits: of q, ``[*B, K]``.
        latent: codes z, ``[*B]`` int64.
        groups: which group each code is of, ``[K]`` int64: then q is that of z's group. None is
            each of its own.

    Returns:
        ``[*B]`` nats, not negative.
    """
    log_q = logits.log_softmax(-1)
    if groups is not None:
        log_q = merged_log_probs(log_q, groups)
    return -log_q.gather(-1, latent.unsqueeze(-1)).squeeze(-1)


def inference_loss(logits: Tensor, latent: Tensor) -> Tensor:
    r""":math:`-E \log q(z \mid s)`, what q minimises (BMD, the maximum of Eq. 1 over q).

    Args:
        logits: of q, ``[*B, K]``.
        latent: codes z, ``[*B]`` int64.

    Returns:
        A scalar, nats.
    """
    return inference_nll(logits, latent).mean()


def aliased_codes(log_prob: Tensor, latent: Tensor) -> Tensor:
    r"""Count the codes z with :math:`\arg\max_{z'} E[q(z' \mid s) \mid z] \ne z`.

    Such a code is taken for another one on average. Of n codes that lead to one and the same
    behaviour all but one are counted. Codes without a sample are not.

    Args:
        log_prob: log q of every code, ``[N, K]``.
        latent: codes z, ``[N]`` int64.

    Returns:
        A scalar int64 in [0, K).
    """
    num_codes = log_prob.shape[-1]
    confusion = log_prob.new_zeros(num_codes, num_codes).index_add_(0, latent, log_prob.exp())
    codes = torch.arange(num_codes, device=latent.device)
    seen = torch.bincount(latent, minlength=num_codes) > 0
    return (seen & (confusion.argmax(-1) != codes)).sum()
