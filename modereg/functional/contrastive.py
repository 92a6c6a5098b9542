r"""Contrastive bounds that pay each sample: InfoNCE with contrasts from a known prior.

CPC is van den Oord et al. (2018), arXiv 1807.03748; CIC is Laskin et al. (2022), arXiv 2202.00161;
Poole et al. (2019), arXiv 1905.06922, derive the bound. :func:`~modereg.functional.info_nce` is the
mean over a batch whose pairs serve each other as contrasts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_limit", "contrastive_ratio", "pair_scores"]

_SHORT = 1e-3
"""Vectors shorter than this are not stretched to length 1, so that gradients stay finite."""


def pair_scores(x: Tensor, y: Tensor, temperature: float | None) -> Tensor:
    r""":math:`\cos(x, y) / T` as in CIC, or :math:`x^\top y` (CPC, Eq. 3) without a temperature.

    Args:
        x: ``[*B, D]``.
        y: ``[M, D]``.
        temperature: T, positive, so that scores are within plus and minus 1 / T; or None.

    Returns:
        ``[*B, M]``, each x with each y.
    """
    if temperature is None:
        return x @ y.mT
    return F.normalize(x, dim=-1, eps=_SHORT) @ F.normalize(y, dim=-1, eps=_SHORT).mT / temperature


def contrastive_ratio(
    joint: Tensor,
    others: Tensor,
    weights: Tensor | None = None,
    num_samples: int | None = None,
) -> Tensor:
    r""":math:`f(s, z) - \log \frac1N \bigl(e^{f(s, z)} + (N - 1) \sum_j w_j e^{f(s, z_j)}\bigr)`.

    InfoNCE (CPC, Eq. 4) of one sample, the pair itself included ("diagonal included"): at most
    log N for any critic, exactly 0 for a constant one, and blind to what is added to
    :math:`f(s, \cdot)`. It is :math:`\log r'` with :math:`r' = N x / (x + S)`,
    :math:`x = e^{f(s, z)}` and S the sum over the contrasts, and
    :math:`E_{p(s, z)} \log r' \le I(Z; S)` holds whenever :math:`E_{p(z)} r' \le 1` for each s
    (Gibbs' inequality for :math:`p(z)\, r'`). That is so

    - for N - 1 contrasts drawn from p(z), of equal weight, independently of the sample and of f:
      the N codes are exchangeable and their r' add up to N, so the mean is 1, over the draws;
    - for all codes of a discrete prior with :math:`w = p`, whatever N and f are, with nothing
      drawn: :math:`S = (N - 1) E_p x`, and r' is concave in x, so Jensen's inequality gives
      :math:`E_p r' \le N E_p x / (E_p x + S) = 1`. As :math:`-\log` is convex, this is at most the
      mean of the former over the draws; both tend to :math:`\log e^f / E_p e^f`, the ratio of a
      classifier :math:`q \propto p\, e^f`, as N grows.

    Args:
        joint: :math:`f(s, z)`, ``[*B]``, finite, of any size.
        others: :math:`f(s, z_j)`, ``[*B, M]``.
        weights: w, ``[M]``, not negative, of any positive sum; None weighs alike. Scores of
            weight 0 do not count.
        num_samples: N, at least 2; None takes M + 1.

    Returns:
        ``[*B]`` nats, of the scores' dtype.
    """
    count = others.shape[-1]
    weights = others.new_ones(count) if weights is None else weights.to(others)
    contrast = (num_samples or count + 1) - 1
    difference = (others - joint.unsqueeze(-1)).masked_fill(weights == 0, -math.inf)
    difference = torch.cat([torch.zeros_like(joint).unsqueeze(-1), difference], -1)
    weights = torch.cat([weights.new_ones(1), contrast * weights / weights.sum()])
    top = difference.detach().amax(-1, keepdim=True)
    # Both sums run in the same order, so that equal scores give a quotient of exactly 1.
    summed = (weights * (difference - top).exp()).sum(-1)
    total = (weights * torch.ones_like(difference)).sum(-1)
    return -((summed / total).log() + top.squeeze(-1))


def contrastive_limit(num_samples: int, largest_surprise: float = math.inf) -> float:
    r""":math:`\log \frac{N P}{P + N - 1}`, the largest :func:`contrastive_ratio`; below log N.

    Args:
        num_samples: N.
        largest_surprise: log P of contrasts that are all codes of a discrete prior, weighed by it:
            P is the inverse of the smallest positive probability, nats. Infinite for draws, which
            may all miss the code, and then the limit is log N.

    Returns:
        Nats; for all codes also below log P.
    """
    return math.log(num_samples) - math.log1p((num_samples - 1) * math.exp(-largest_surprise))
