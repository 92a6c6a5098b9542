"""Distances between paths by dynamic time warping, kept for those that are still there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modereg.errors import ConfigurationError, NonFiniteError
from modereg.lazy import optional

__all__ = ["WarpedDistances", "warped_distances"]

EXTRA = "modereg[dtw]"


def warped_distances(paths: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    r"""Return distances by dynamic time warping (Sakoe and Chiba, 1978), ``[N, M]`` float64.

    :math:`\min_\pi (\sum_{(i, j) \in \pi} \|x_i - y_j\|^2)^{1/2} / \sqrt{\max(T_x, T_y)}` over
    warpings that keep the order and the ends: how far two paths are apart, in the units of their
    points, whatever the speeds. No average over lengths is mixed in.

    Args:
        paths: ``[T, d]`` each, T of its own.
        others: the same.

    Raises:
        MissingDependencyError: if dtaidistance is not installed.
        ConfigurationError: if a path has no point.
        NonFiniteError: if a point is not finite.
    """
    if not len(paths) or not len(others):
        return torch.zeros(len(paths), len(others), dtype=torch.float64)
    every, split = [_points(path) for path in (*paths, *others)], len(paths)
    found = _library().distance_matrix_fast(
        every, block=((0, split), (split, len(every))), parallel=False
    )
    lengths = np.array([len(path) for path in every], dtype=np.float64)
    longest = np.maximum(lengths[:split, None], lengths[None, split:])
    return torch.from_numpy(found[:split, split:] / np.sqrt(longest))


class WarpedDistances:
    """The distances among some paths, of which each pair is computed once.

    Args:
        capacity: paths of which distances are kept: memory is its square.

    Raises:
        ConfigurationError: if there is room for none.
    """

    def __init__(self, capacity: int = 512) -> None:
        if capacity < 1:
            raise ConfigurationError(f"expected room for at least 1 path, got {capacity}")
        self.capacity, self.computed = capacity, 0
        self._ids: list[int] = []
        self._paths: list[Tensor] = []
        self._matrix = torch.zeros(0, 0, dtype=torch.float64)

    def of(self, ids: Sequence[int], paths: Sequence[Tensor]) -> Tensor:
        """Return the distances among paths, ``[N, N]``, and forget those of all others.

        Args:
            ids: a number of each path that no other ever has.
            paths: ``[T, d]`` each.

        Raises:
            ConfigurationError: if there are more than there is room for, or a number comes twice.
        """
        if len(ids) > self.capacity or len(set(ids)) < len(ids) or len(ids) != len(paths):
            raise ConfigurationError(
                f"expected at most {self.capacity} paths, each with a number of its own, got "
                f"{len(paths)} with {len(set(ids))} numbers; give fewer, or more capacity"
            )
        place = {number: row for row, number in enumerate(self._ids)}
        old = [row for row, number in enumerate(ids) if number in place]
        new = [row for row, number in enumerate(ids) if number not in place]
        matrix = torch.zeros(len(ids), len(ids), dtype=torch.float64)
        if old:
            rows = torch.tensor([place[ids[row]] for row in old])
            kept = torch.tensor(old)
            matrix[kept[:, None], kept] = self._matrix[rows[:, None], rows]
        for number, row in enumerate(new):
            against = [*old, *new[:number]]
            found = warped_distances([paths[row]], [paths[other] for other in against])[0]
            matrix[row, against] = matrix[against, row] = found
            self.computed += len(against)
        self._ids, self._matrix = list(ids), matrix
        return matrix


def _points(path: Tensor) -> np.ndarray:
    points = np.ascontiguousarray(path.detach().double().numpy(force=True))
    if points.ndim != 2 or not len(points):
        raise ConfigurationError(
            f"expected paths [T, d] of at least one point, got shape {tuple(path.shape)}"
        )
    if not np.isfinite(points).all():
        raise NonFiniteError("expected finite paths to compare, got NaN or infinity in one")
    return points


def _library() -> Any:
    return optional("dtaidistance.dtw_ndim", "Dynamic time warping", EXTRA)
