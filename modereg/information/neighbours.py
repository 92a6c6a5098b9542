r"""Nearest-neighbour estimates of information and entropy from samples; all in nats."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg import functional
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError

__all__ = ["particle_entropy"]


@torch.no_grad()
def particle_entropy(
    features: Tensor, *, k: int = 12, reference: Tensor | None = None, chunk_size: int = 1024
) -> Tensor:
    r"""Reward each particle with :math:`\log(1 + \frac{1}{k} \sum_j \|x_i - x_j\|)`.

    The reward of APT (Liu and Abbeel, arXiv 2103.04551, with c = 1): the mean Euclidean distance to
    the k nearest particles. No gradient flows. Memory grows with ``chunk_size`` times M.

    Args:
        features: the particles, ``[N, D]`` floating point, on any device.
        k: number of neighbours.
        reference: where neighbours are sought, ``[M, D]``, all of it: a particle that is also in
            the reference has itself as a neighbour. None seeks among the features, where each
            particle leaves itself out (its duplicates count).
        chunk_size: particles at a time.

    Returns:
        ``[N]``, not negative, of the features' dtype.

    Raises:
        ShapeError: if a shape is another one.
        ConfigurationError: if there are fewer than k neighbours, or k or the chunk is not positive.
        NonFiniteError: if a feature is not finite.
    """
    others = features if reference is None else reference
    _check_particles(features, others)
    _check_neighbours(k, len(others) - (reference is None))
    if chunk_size < 1:
        raise ConfigurationError(f"expected a positive chunk_size, got {chunk_size}")
    rewards = features.new_empty(len(features))
    for start in range(0, len(features), chunk_size):
        chunk = features[start : start + chunk_size]
        # From the differences themselves, so that duplicates are at 0 exactly.
        distances = torch.cdist(chunk, others, compute_mode="donot_use_mm_for_euclid_dist")
        if reference is None:
            distances.diagonal(start).fill_(torch.inf)
        nearest = distances.topk(k, largest=False, sorted=False).values
        rewards[start : start + chunk_size] = functional.particle_reward(nearest)
    return rewards


def _check_particles(features: Tensor, reference: Tensor) -> None:
    for name, value in (("features", features), ("reference", reference)):
        if value.ndim != 2 or value.shape[-1] != features.shape[-1]:
            raise ShapeError(
                f"expected features [N, D] and a reference [M, D] of one D, got {name} of shape "
                f"{list(value.shape)} beside features of shape {list(features.shape)}; flatten "
                "batch dimensions"
            )
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"expected finite {name}, got NaN or infinities; drop those rows")


def _check_neighbours(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ConfigurationError(
            f"expected 1 <= k <= {max(available, 0)}, the number of possible neighbours, got "
            f"k = {k}; give more samples or fewer neighbours"
        )
