"""What a reinforcement learner needs: shaping, its objectives, the way from the base."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "clipped_surrogate",
    "group_matching",
    "kl_standard_normal",
    "score_function_loss",
    "shaping",
]


def shaping(l_tp1: Tensor, l_t: Tensor, gamma: float, steps: Tensor | int) -> Tensor:
    r""":math:`\gamma^n l_{t+1} - l_t`, the discounted difference of a potential l.

    Over an episode its discounted sum is :math:`\gamma^T l_T - l_0`, so nothing is gained by living
    longer (Ng, Harada and Russell, 1999: potential-based shaping).

    Args:
        l_tp1: the potential after the decision, ``[*B]``.
        l_t: the potential before it, ``[*B]``.
        gamma: discount of one environment step.
        steps: n, environment steps of the decision, ``[*B]`` or one int.

    Returns:
        ``[*B]``.
    """
    if isinstance(steps, Tensor):
        steps = steps.to(l_tp1.dtype)  # a power of an integer tensor would be float32
    return gamma**steps * l_tp1 - l_t


def clipped_surrogate(log_weight: Tensor, advantage: Tensor, epsilon: float | Tensor) -> Tensor:
    r""":math:`\min(r A, \mathrm{clip}(r, 1 - \epsilon, 1 + \epsilon) A)` with :math:`r = e^{w}`.

    Schulman et al., Proximal Policy Optimization, arXiv 1707.06347, Eq. 7.

    Args:
        log_weight: w, log of the probability ratio of new and old policy, ``[*B]``.
        advantage: A, ``[*B]``.
        epsilon: clip range, or one for each ratio, ``[*B]``.

    Returns:
        ``[*B]``, to be maximised.
    """
    clipped = (
        torch.clamp(log_weight, torch.log1p(-epsilon), torch.log1p(epsilon))
        if isinstance(epsilon, Tensor)
        else log_weight.clamp(math.log1p(-epsilon), math.log1p(epsilon))
    )
    return torch.minimum(log_weight.exp() * advantage, clipped.exp() * advantage)


def group_matching(scores: Tensor, returns: Tensor, beta: float) -> Tensor:
    r""":math:`KL(q \| p)` of :math:`q = \mathrm{softmax}(\beta \hat R)`, p the softmax of scores s.

    Uni-TMPO, arXiv 2609.34688: of K rollouts from one state, each is to become as likely beside the
    others as its return says, so that what is best does not take all. :math:`\hat R` are the
    returns at mean 0 and standard deviation 1 in their group. The gradient is
    :math:`\sum_i (p_i - q_i) \nabla s_i`.

    Args:
        scores: s, a log-probability of each rollout up to a constant of its group, ``[*B, K]``.
        returns: ``[*B, K]``, which differ within each group; no gradient passes.
        beta: how much likelier a rollout is to be, nats a standard deviation of its return.

    Returns:
        ``[*B]`` nats, to be minimised.
    """
    returns = returns.detach().to(scores.dtype)
    spread = returns.std(-1, correction=0, keepdim=True)
    log_q = (beta * (returns - returns.mean(-1, keepdim=True)) / spread).log_softmax(-1)
    return (log_q.exp() * (log_q - scores.log_softmax(-1))).sum(-1)


def kl_standard_normal(loc: Tensor, scale: Tensor, event_dims: int = 1) -> Tensor:
    r""":math:`KL(N(\mu, \sigma^2) \| N(0, I)) = \sum (\mu^2 + \sigma^2 - 1) / 2 - \log \sigma`.

    Args:
        loc: mean, ``[*B, *E]``.
        scale: standard deviation, ``[*B, *E]``, positive.
        event_dims: number of dimensions in E, at least one.

    Returns:
        ``[*B]`` nats.
    """
    kl = 0.5 * (loc.square() + scale.square() - 1.0) - scale.log()
    return kl.flatten(-event_dims).sum(-1)


def score_function_loss(log_prob: Tensor, reward: Tensor) -> Tensor:
    r""":math:`-E[(r - b) \log p(z)]` with b the mean of the *other* rewards, 0 without any.

    REINFORCE (Williams, 1992).

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
