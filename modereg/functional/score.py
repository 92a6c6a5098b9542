"""The gradient of an expectation over what is drawn (REINFORCE; Williams, 1992)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["score_function_loss"]


def score_function_loss(log_prob: Tensor, reward: Tensor) -> Tensor:
    r""":math:`-E[(r - b) \log p(z)]` with b the mean reward of the *other* samples (0 without any).

    Its gradient is an unbiased estimate of that of :math:`-E_p[r]`: b does not hang on the sample
    that it is taken from.

    Args:
        log_prob: log p of the samples, ``[*B]``, with a gradient.
        reward: r of the samples, ``[*B]``; no gradient passes.

    Returns:
        A scalar; 0 for an empty batch.
    """
    reward = reward.detach().to(log_prob.dtype)
    number = max(reward.numel(), 1)
    others = (reward.sum() - reward) / max(number - 1, 1)
    baseline = others if number > 1 else torch.zeros_like(reward)
    return -((reward - baseline) * log_prob).sum() / number
