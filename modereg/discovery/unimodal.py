"""Whether points are more than one bundle: clusterings of unimodal data look like something too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["has_valley", "is_above_unimodal", "one_height", "valley"]

Cluster = Callable[[Tensor, int], Tensor]

DRAWS, POINTS = 8, 1000
"""Sets of unimodal data of each kind that are clustered, and how many points each has."""

FOLDS, DIRECTIONS = 5, (2, 3, 4, 5)
"""Parts that are held out in turn, and numbers of clusters between whose means a valley is sought.
"""

SIGNIFICANT = 3.0
"""Standard errors from which a difference counts."""

SHALLOW, ENOUGH = 0.5, 8
"""Share of the lesser side from which on the middle counts as filled, and how many points side and
middle must have for that."""

BINS = 16
"""Bins of a histogram along a line, from .3 before one mean to .3 behind the other."""


def is_above_unimodal(
    points: Tensor, score: Callable[[Tensor], float], generator: torch.Generator
) -> bool:
    """Return whether points have a silhouette that unimodal ones of their covariance hardly exceed.

    A null reference as in the gap statistic (Tibshirani, Walther and Hastie, 2001), of silhouettes
    instead of distortions: Gaussian data, and uniform ones in a box along the principal axes,
    which of unimodal data fall apart most readily. The limit is the larger of their means over
    draws, and three standard deviations of a draw.

    Args:
        points: ``[N, F]``.
        score: clusters points and returns their silhouette.
        generator: of the draws, on the points' device.
    """
    own = score(points)
    return all(own > limit for limit in _unimodal_limits(points, score, generator))


def _unimodal_limits(
    points: Tensor, score: Callable[[Tensor], float], generator: torch.Generator
) -> Iterator[float]:
    values, vectors = torch.linalg.eigh(torch.cov(points.double().T).reshape(points.shape[1], -1))
    root = (vectors * values.clamp_min(0.0).sqrt()).T.to(points)
    for draw in (torch.randn, torch.rand):
        found = []
        for _ in range(DRAWS):
            sample = draw(points.shape, generator=generator, device=points.device).to(points)
            standard = sample if draw is torch.randn else (sample - 0.5) * 12**0.5
            found.append(score(standard @ root))
        scores = torch.tensor(found, device="cpu")
        yield float(scores.mean() + SIGNIFICANT * scores.std())


def has_valley(points: Tensor, cluster: Cluster) -> bool:
    """Return whether some line sees two heights with a valley between them; see :func:`valley`."""
    tried = (k for k in DIRECTIONS if FOLDS * 2 * k <= len(points))
    return any(valley(points, k, cluster) >= SIGNIFICANT for k in tried)


def valley(points: Tensor, num_clusters: int, cluster: Cluster) -> float:
    r"""Return how significant the valley is that the means of some clusters have between them.

    Whatever line log-concave data (Gaussian and uniform ones among them) are projected on, their
    density there has one height (Prekopa, 1973): no place holds less than both a place to its left
    and one to its right. So four fifths of the data choose the line, among those through the means
    of two clusters, and three places on it, and the other fifth counts its points there: m at the
    middle and s at the lesser side, summed over the folds. Where there is one height,
    :math:`(s - m) / \sqrt{s + m}` is at most about standard normal.

    Args:
        points: ``[N, F]``, in random order.
        num_clusters: at least 2.
        cluster: returns the means ``[K, F]`` of that many clusters of points.
    """
    return _significance(
        *_heights((rest, tested, cluster(rest, num_clusters)) for rest, tested in _folds(points))
    )


def one_height(first: Tensor, second: Tensor) -> bool:
    """Return whether two clusters are parts of one bundle: no line between them sees a valley.

    The line is the one through their means. The middle must be visibly filled, by at least half of
    the lesser side: a valley of few points is not significant, and there none the less.

    Args:
        first: ``[N, F]``, in random order.
        second: ``[M, F]``, likewise.
    """
    if torch.equal(first.mean(0), second.mean(0)):
        return True
    pairs = zip(_folds(first), _folds(second), strict=True)
    side, middle = _heights(
        (torch.cat([one, two]), torch.cat(tested), torch.stack([one.mean(0), two.mean(0)]))
        for (one, *own), (two, *other) in pairs
        for tested in [[*own, *other]]
    )
    filled = side + middle >= ENOUGH and middle >= SHALLOW * side
    return filled and _significance(side, middle) < SIGNIFICANT


def _folds(points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return what is left and what is held out, in turn; all are both where they are too few."""
    fold = torch.arange(len(points), device=points.device) % FOLDS
    for held in range(FOLDS):
        few = len(points) < FOLDS
        yield (points, points) if few else (points[fold != held], points[fold == held])


def _heights(folds: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, float]:
    """Return how many held-out points are at the lesser side and in the middle of a line.

    Args:
        folds: points that choose the line, points that are held out, and the means of clusters.
    """
    side = middle = 0.0
    for rest, tested, means in folds:
        histogram, places = _deepest(rest, means)
        left, low, right = (float(histogram(tested)[place]) for place in places)
        side, middle = side + min(left, right), middle + low
    return side, middle


def _significance(side: float, middle: float) -> float:
    return (side - middle) / max(side + middle, 1.0) ** 0.5


def _deepest(
    points: Tensor, means: Tensor
) -> tuple[Callable[[Tensor], Tensor], tuple[int, int, int]]:
    """Return the histogram along the line with the deepest valley, and its three bins."""
    found = []
    for start, end in _pairs(means):
        histogram = _along(start, end)
        depth, places = _lowest(histogram(points))
        found.append((depth, histogram, places))
    if not found:
        return _along(points[0], points[0] + 1.0), (0, 0, 0)
    _, histogram, places = max(found, key=lambda row: row[0])
    return histogram, places


def _pairs(means: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for second in range(len(means)):
        for first in range(second):
            yield means[first], means[second]


def _along(start: Tensor, end: Tensor) -> Callable[[Tensor], Tensor]:
    direction = (end - start) / (end - start).square().sum()
    return lambda points: torch.histc((points - start) @ direction, BINS, -0.3, 1.3)


def _lowest(counts: Tensor) -> tuple[float, tuple[int, int, int]]:
    """Return the depth of the deepest place between two higher ones, and the three places."""
    left, right = counts.cummax(0).values, counts.flip(0).cummax(0).values.flip(0)
    side = torch.minimum(left, right)
    depth = (side - counts) / (side + counts).clamp_min(1.0).sqrt()
    low = int(depth[1:-1].argmax()) + 1
    return float(depth[low]), (
        int(counts[:low].argmax()),
        low,
        low + 1 + int(counts[low + 1 :].argmax()),
    )
