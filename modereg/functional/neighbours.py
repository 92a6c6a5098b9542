r"""Nearest-neighbour estimates of entropy and mutual information, from distances and counts."""

from __future__ import annotations

from torch import Tensor

__all__ = ["particle_reward"]


def particle_reward(distances: Tensor) -> Tensor:
    r""":math:`\log(1 + \frac{1}{k} \sum_j d_j)`, how far a particle is from its neighbours.

    Liu and Abbeel, Behavior From the Void, arXiv 2103.04551, the particle-based entropy with c = 1.

    Args:
        distances: of the k nearest neighbours, ``[*B, k]``, not negative.

    Returns:
        ``[*B]``, not negative: an entropy in nats up to constants, where the distances are large.
    """
    return distances.mean(-1).log1p()
