r"""Nearest-neighbour estimates of entropy and mutual information, from distances and counts.

Each estimate is the mean of its terms, one a sample. KSG is Kraskov, Stoegbauer and Grassberger,
Estimating Mutual Information, arXiv cond-mat/0305641; :math:`\psi` is the digamma function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "kozachenko_leonenko_terms",
    "ksg_rectangle_terms",
    "ksg_terms",
    "particle_reward",
    "ross_terms",
]


def ksg_terms(num_x: Tensor, num_y: Tensor, k: int) -> Tensor:
    r""":math:`\psi(k) + \psi(N) - \psi(n_x + 1) - \psi(n_y + 1)`, KSG Eq. 8 (algorithm 1).

    Args:
        num_x: other samples whose x is strictly nearer than the k-th joint neighbour, ``[N]``.
        num_y: the same of y, ``[N]``.
        k: number of neighbours.

    Returns:
        ``[N]`` nats, float64.
    """
    return _psi(num_x, k) + _psi(num_x, len(num_x)) - _digamma(num_x + 1) - _digamma(num_y + 1)


def ksg_rectangle_terms(num_x: Tensor, num_y: Tensor, k: int) -> Tensor:
    r""":math:`\psi(k) - 1/k + \psi(N) - \psi(n_x) - \psi(n_y)`, KSG Eq. 9 (algorithm 2).

    Args:
        num_x: other samples whose x is at most as far as the farthest x of the k joint neighbours,
            ``[N]``, positive.
        num_y: the same of y, ``[N]``.
        k: number of neighbours.

    Returns:
        ``[N]`` nats, float64.
    """
    constant = _psi(num_x, k) - 1 / k + _psi(num_x, len(num_x))
    return constant - _digamma(num_x) - _digamma(num_y)


def ross_terms(num_same: Tensor, num_within: Tensor, k: Tensor) -> Tensor:
    r""":math:`\psi(N) - \psi(N_z) + \psi(k) - \psi(m)` (Ross, PLOS ONE 9(2) e87357, 2014, Eq. 2).

    Args:
        num_same: :math:`N_z`, samples of the same code, itself included, ``[N]``.
        num_within: m, samples of any code strictly nearer than the k-th of the same code, itself
            included, ``[N]``, positive.
        k: number of neighbours of each sample, ``[N]``, less than ``num_same``.

    Returns:
        ``[N]`` nats, float64.
    """
    constant = _psi(num_same, len(num_same))
    return constant - _digamma(num_same) + _digamma(k) - _digamma(num_within)


def kozachenko_leonenko_terms(distances: Tensor, k: int, dim: int) -> Tensor:
    r""":math:`\psi(N) - \psi(k) + d \log 2 r_i` with the maximum norm, KSG Eq. 20.

    Args:
        distances: :math:`r_i` to the k-th neighbour in the maximum norm, ``[N]``, positive.
        k: number of neighbours.
        dim: d, dimensions of the space.

    Returns:
        ``[N]`` nats.
    """
    constant = _psi(distances, len(distances)) - _psi(distances, k) + dim * math.log(2)
    return constant + dim * distances.log()


def particle_reward(distances: Tensor) -> Tensor:
    r""":math:`\log(1 + \frac{1}{k} \sum_j d_j)`, how far a particle is from its neighbours.

    Liu and Abbeel, Behavior From the Void, arXiv 2103.04551, the particle-based entropy with c = 1.

    Args:
        distances: of the k nearest neighbours, ``[*B, k]``, not negative.

    Returns:
        ``[*B]``, not negative: an entropy in nats up to constants, where the distances are large.
    """
    return distances.mean(-1).log1p()


def _digamma(counts: Tensor) -> Tensor:
    return torch.digamma(counts.to(torch.float64))


def _psi(like: Tensor, number: int) -> Tensor:
    """Return psi of one positive number, a float64 scalar on the device of a tensor."""
    return torch.digamma(torch.tensor(float(number), dtype=torch.float64, device=like.device))
