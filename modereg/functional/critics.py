r"""Bounds and estimates of mutual information from the scores of a critic, in nats.

A critic f(x, y) scores pairs. Every function here reads two sets of scores: ``joint``, of pairs
that belong together, :math:`(x, y) \sim p(x, y) = P`, and ``marginal``, of pairs that do not,
:math:`(x, y) \sim p(x)\,p(y) = Q`. :func:`split_scores` makes both of one matrix of all pairs.
Poole et al. (2019), arXiv 1905.06922, derive and compare these bounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "donsker_varadhan",
    "info_nce",
    "jensen_shannon",
    "log_mean_exp",
    "mine",
    "nwj",
    "smile",
    "split_scores",
]


def split_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    r"""Split :math:`f(x_i, y_j)` into the pairs that belong together and all others.

    Args:
        scores: ``[N, N]`` with the joint pairs on the diagonal, N > 1.

    Returns:
        ``joint [N]``, the diagonal, and ``marginal [N, N - 1]``, what else is in each row.
    """
    size = len(scores)
    others = scores.flatten()[1:].view(size - 1, size + 1)[:, :-1]
    return scores.diagonal(), others.reshape(size, size - 1)


def log_mean_exp(values: Tensor, dim: int | None = None) -> Tensor:
    r""":math:`\log \mathrm{mean} \exp v`, exact for equal values; entries may be -inf.

    Args:
        values: ``[*B]``.
        dim: dimension to reduce; None takes all.

    Returns:
        A scalar, or ``[*B]`` without ``dim``.
    """
    if dim is None:
        values, dim = values.flatten(), 0
    top = values.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    return (values - top).exp().mean(dim).log() + top.squeeze(dim)


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    r""":math:`E_P[f] - \log E_Q[e^f] \le I(X; Y)` (Donsker and Varadhan, 1983).

    Tight where :math:`f = \log p(x, y) / p(x) p(y) + c` for any c. The logarithm is of a sample
    mean, so the figure of a few samples is above the bound on average.

    Args:
        joint: scores of pairs from P, ``[N]``.
        marginal: scores of pairs from Q, of any shape.

    Returns:
        A scalar, nats.
    """
    return joint.mean() - log_mean_exp(marginal)


def nwj(joint: Tensor, marginal: Tensor) -> Tensor:
    r""":math:`E_P[f] - e^{-1} E_Q[e^f] \le I(X; Y)` (Nguyen, Wainwright and Jordan, 2010).

    Unbiased at any sample size; tight only where :math:`f = 1 + \log p(x, y) / p(x) p(y)`; at most
    :func:`donsker_varadhan` of the same scores. Nothing here can replace the exponential itself:
    where the mean of :math:`e^{f - 1}` is no finite number of the scores' dtype (scores above 89
    in float32, 710 in float64) the result is -inf, and its gradient is not finite.

    Args:
        joint: scores of pairs from P, ``[N]``.
        marginal: scores of pairs from Q, of any shape.

    Returns:
        A scalar, nats.
    """
    return joint.mean() - (log_mean_exp(marginal) - 1).exp()


def smile(joint: Tensor, marginal: Tensor, clip: float = 5.0) -> Tensor:
    r""":math:`E_P[f] - \log E_Q[\mathrm{clip}(e^f, e^{-\tau}, e^\tau)]`, :math:`I_{SMILE}`.

    Song and Ermon (2020), arXiv 1910.06222, section 5. It varies less than
    :func:`donsker_varadhan`, to which it tends as the clip grows, but is no bound: where scores
    exceed the clip it can lie above I. A constant added to f counts as soon as anything is
    clipped. The paper trains f by :func:`jensen_shannon`, not by this.

    Args:
        joint: scores of pairs from P, ``[N]``.
        marginal: scores of pairs from Q, of any shape.
        clip: :math:`\tau`, positive, nats.

    Returns:
        A scalar, nats.
    """
    return donsker_varadhan(joint, marginal.clamp(-clip, clip))


def jensen_shannon(joint: Tensor, marginal: Tensor) -> Tensor:
    r""":math:`\log 2 - \frac12 E_P[\log(1 + e^{-f})] - \frac12 E_Q[\log(1 + e^f)] \le JS(P \| Q)`.

    The f-GAN bound (Nowozin et al., 2016, arXiv 1606.00709) in the form of Deep InfoMax (Hjelm et
    al., 2019, arXiv 1808.06670), scaled and shifted so that it is a bound of the divergence itself:
    at most log 2, and 0 for f = 0. Its maximum is at :math:`f = \log p(x, y) / p(x) p(y)`; what
    information such an f shows is read by :func:`nwj` of f + 1.

    Args:
        joint: scores of pairs from P, ``[N]``.
        marginal: scores of pairs from Q, of any shape.

    Returns:
        A scalar, nats; a divergence, not an information.
    """
    return math.log(2.0) - 0.5 * (F.softplus(-joint).mean() + F.softplus(marginal).mean())


def mine(
    joint: Tensor, marginal: Tensor, log_average: Tensor | None = None, rate: float = 0.01
) -> tuple[Tensor, Tensor]:
    r""":func:`donsker_varadhan` with the gradient of MINE (Belghazi et al., 2018).

    The gradient of the logarithm of a batch mean is biased; arXiv 1801.04062, section 3.2, divides
    by an exponential moving average a of :math:`E_Q[e^f]` instead:
    :math:`\nabla = E_P[\nabla f] - E_Q[e^f \nabla f] / a`.

    Args:
        joint: scores of pairs from P, ``[N]``.
        marginal: scores of pairs from Q, of any shape.
        log_average: log a after the last batch, a scalar; None before the first.
        rate: weight of this batch in the average, in (0, 1]; 1 gives the gradient of
            :func:`donsker_varadhan`.

    Returns:
        The bound, a scalar in nats, and log a, a scalar without a gradient.
    """
    batch = log_mean_exp(marginal.detach())
    if log_average is None or rate == 1:
        log_average = batch
    else:
        log_average = torch.logaddexp(log_average + math.log1p(-rate), batch + math.log(rate))
    # The average counts this batch with its rate, so the mean below is at most 1 / rate.
    corrected = joint.mean() - (marginal - log_average).exp().mean()
    value = donsker_varadhan(joint.detach(), marginal.detach())
    return value + (corrected - corrected.detach()), log_average


def info_nce(joint: Tensor, marginal: Tensor) -> Tensor:
    r""":math:`E[\log e^{f(x_i, y_i)} / \frac1N \sum_j e^{f(x_i, y_j)}] \le I(X; Y)`, InfoNCE.

    Van den Oord et al. (2018), arXiv 1807.03748. The sum is over the N - 1 others and the pair
    itself, so it is at most log N for any critic, and exactly 0 for a constant one.

    Args:
        joint: scores of pairs from P, ``[M]``.
        marginal: scores of each x with N - 1 other y, ``[M, N - 1]``, see :func:`split_scores`.

    Returns:
        A scalar, nats.
    """
    return (joint - log_mean_exp(torch.cat([joint.unsqueeze(-1), marginal], -1), -1)).mean()
