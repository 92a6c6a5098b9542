"""Points in space: distances, the nearest centroid, how well clusters stand apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "nearest_centroid",
    "silhouette",
    "silhouette_of_distances",
    "squared_distances",
]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`\|x_i - y_j\|^2`, from the differences themselves, so equal points are at 0.

    Args:
        x: ``[N, D]``.
        y: ``[M, D]``.

    Returns:
        ``[N, M]``.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    r""":math:`\arg\min_k \|x_i - c_k\|^2`; of equally near centroids the first.

    Args:
        x: ``[N, D]``.
        centroids: ``[K, D]``.

    Returns:
        ``[N]`` int64.
    """
    return squared_distances(x, centroids).argmin(-1)


def silhouette(features: Tensor, labels: Tensor) -> Tensor:
    r"""Mean of :math:`(b_i - a_i) / \max(a_i, b_i)` over points (Rousseeuw, 1987), exact.

    :math:`a_i` is the mean Euclidean distance to the other points of the same cluster and
    :math:`b_i` the smallest mean distance to another cluster. Points alone in their cluster count
    as 0. Memory grows with N squared: give a subset of a few thousand points.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` int64, not negative; numbers may be missing.

    Returns:
        A scalar in [-1, 1]; 0 where there is a single cluster.
    """
    return silhouette_of_distances(squared_distances(features, features).sqrt(), labels)


def silhouette_of_distances(distances: Tensor, labels: Tensor) -> Tensor:
    """Return :func:`silhouette` where the distances between points are known.

    Args:
        distances: ``[N, N]``, symmetric, with zeros on the diagonal.
        labels: ``[N]`` int64, not negative; numbers may be missing.

    Returns:
        A scalar in [-1, 1]; 0 where there is a single cluster.
    """
    _, labels = labels.unique(return_inverse=True)
    members = F.one_hot(labels).to(distances.dtype)
    if members.shape[-1] < 2:
        return distances.new_zeros(())
    sizes = members.sum(0)
    totals = distances @ members
    own = labels.unsqueeze(-1)
    own_size = sizes[labels]
    within = totals.gather(-1, own).squeeze(-1) / (own_size - 1).clamp_min(1.0)
    between = (totals / sizes).scatter(-1, own, torch.inf).amin(-1)
    largest = torch.maximum(within, between).clamp_min(torch.finfo(distances.dtype).tiny)
    return torch.where(own_size > 1, (between - within) / largest, 0.0).mean()
