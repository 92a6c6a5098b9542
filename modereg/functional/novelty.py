r"""Novelty of states from the error of a distilled random network, and its running scale.

RND is Burda et al., Exploration by Random Network Distillation, arXiv 1810.12894; NovelD is Zhang
et al., NovelD: A Simple yet Effective Exploration Criterion, NeurIPS 2021.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["distillation_error", "novel_d", "pooled_moments"]


def distillation_error(prediction: Tensor, target: Tensor) -> Tensor:
    r""":math:`\frac{1}{D} \|\hat f(s) - f(s)\|^2` (RND, Section 2.2; the mean is its code's).

    Args:
        prediction: of the trained network, ``[*B, D]``.
        target: of the random network, ``[*B, D]``.

    Returns:
        ``[*B]``, not negative.
    """
    return (prediction - target).square().mean(-1)


def novel_d(novelty_tp1: Tensor, novelty_t: Tensor, alpha: float) -> Tensor:
    r""":math:`\max(n(s_{t+1}) - \alpha\, n(s_t), 0)`: what is won by stepping into newer states.

    NovelD's criterion without its restriction to the first visit in an episode; DDiffPG (arXiv
    2406.00681) takes :math:`\alpha = 0.5`.

    Args:
        novelty_tp1: n of the state after the step, ``[*B]``, not negative.
        novelty_t: n of the state before it, ``[*B]``, not negative.
        alpha: not negative; 0 leaves :math:`n(s_{t+1})`.

    Returns:
        ``[*B]`` in [0, ``novelty_tp1``].
    """
    return (novelty_tp1 - alpha * novelty_t).clamp_min(0.0)


def pooled_moments(
    mean: Tensor, variance: Tensor, count: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Moments of all samples from those of the earlier ones and the new ones themselves.

    With :math:`\delta` the difference of the two means, n and m the two counts:
    :math:`(n v_n + m v_m + \delta^2 n m / (n + m)) / (n + m)` (Chan, Golub and LeVeque, 1979).

    Args:
        mean: of the earlier samples, ``[*S]``; of no meaning where there were none.
        variance: theirs, over n rather than n - 1, ``[*S]``.
        count: n, a scalar int64.
        samples: the new ones, ``[m, *S]``, m at least 1.

    Returns:
        Mean ``[*S]``, variance ``[*S]`` and count of all.
    """
    total = count + len(samples)
    share = len(samples) / total.to(samples.dtype)
    delta = samples.mean(0) - mean
    pooled = (1 - share) * variance + share * samples.var(0, correction=0)
    return mean + share * delta, pooled + (1 - share) * share * delta.square(), total
