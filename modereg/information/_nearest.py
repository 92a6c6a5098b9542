"""Geometry of nearest neighbours in the maximum norm, on float64 arrays ``[N, D]``.

One dimension is sorted, a few go into a tree, many are compared pair by pair in chunks: nothing
here needs memory for all pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

__all__ = ["Array", "count", "distances_within", "extent", "kth_distances"]

Array = np.ndarray[Any, Any]

TREE_DIMS = 8
"""Dimensions up to which a tree counts neighbours faster than comparing all pairs."""

PAIRS = 2**21
"""Pairs of samples that are compared at a time: 16 MiB of distances."""


def kth_distances(values: Array, k: int) -> Array:
    """Return the distance of each sample to its k-th neighbour, ``[N]``."""
    if values.shape[1] > 1:
        return cKDTree(values).query(values, k=[k + 1], p=np.inf)[0][:, 0]
    order = np.argsort(values[:, 0])
    line, distances = values[order, 0], np.full(len(values), np.inf)
    span = line[k:] - line[:-k]  # of each k + 1 samples in a row
    for left in range(k + 1):
        # The sample at place `left` of a row reaches all others of it within the farther end.
        inner = slice(left, left + len(span))
        reach = np.maximum(line[inner] - line[: len(span)], line[k:] - line[inner])
        np.minimum(distances[inner], reach, out=distances[inner])
    unsorted = np.empty_like(distances)
    unsorted[order] = distances
    return unsorted


def distances_within(values: Array, labels: Array, k: int) -> Array:
    """Return the distance of each sample to the k-th of its label, ``[N]``."""
    order = np.argsort(labels, kind="stable")
    distances = np.empty(len(values))
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        distances[rows] = kth_distances(values[rows], min(k, len(rows) - 1))
    return distances


def extent(values: Array, neighbours: Array) -> Array:
    """Return the distance to the farthest of some neighbours ``[N, k]`` along one variable."""
    reach = [np.abs(values - values[column]).max(1) for column in neighbours.T]
    return np.max(reach, axis=0)


def count(values: Array, radius: Array, *, closed: bool) -> Array:
    """Count samples within (or, closed, on) a radius of each sample, itself included, ``[N]``."""
    if values.shape[1] == 1:
        return _count_on_line(values[:, 0], radius, closed)
    if values.shape[1] > TREE_DIMS:
        return _count_pairs(values, radius, closed)
    radius = radius if closed else np.nextafter(radius, 0)
    return cKDTree(values).query_ball_point(values, radius, p=np.inf, return_length=True)


def _count_on_line(line: Array, radius: Array, closed: bool) -> Array:
    # line + radius is rounded, and a neighbour lies on the radius: decide by more than a rounding.
    slack = 4 * np.spacing(np.abs(line).max())
    order = np.argsort(line)
    line, radius = line[order], radius[order] + (slack if closed else -slack)
    counts = np.empty(len(line), dtype=np.int64)
    counts[order] = np.searchsorted(line, line + radius, "right") - np.searchsorted(
        line, line - radius, "left"
    )
    return np.maximum(counts, 1)


def _count_pairs(values: Array, radius: Array, closed: bool) -> Array:
    compare = torch.le if closed else torch.lt
    points, radii = torch.from_numpy(values), torch.from_numpy(radius).unsqueeze(-1)
    size = max(1, PAIRS // len(values))
    counts = [
        compare(torch.cdist(rows, points, p=torch.inf), limit).sum(-1)
        for rows, limit in zip(points.split(size), radii.split(size))
    ]
    return torch.cat(counts).numpy()
