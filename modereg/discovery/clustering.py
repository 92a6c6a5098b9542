"""Partitions of episodes: k-means, and the clusters that there are when nobody says how many.

The features are used in the units that they have. Standardising them per dimension inflates the
noise of the dimensions that carry none of the modes, and on Avoid costs a third of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2
from torch import Tensor

from modereg import functional
from modereg.discovery import unimodal
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError

__all__ = ["ClusterCount", "choose_num_clusters", "find_behaviours", "kmeans"]

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64)
"""Numbers of clusters that :func:`choose_num_clusters` tries."""

FEW = (2, 3, 4, 5, 6, 8)
"""Numbers of clusters that :func:`find_behaviours` tries of each part."""

SPLIT = 24
"""Episodes that a part needs to be looked at again."""

HANDFUL, GAP = 5, 1.15
"""Points that may stand apart from a bundle, and how much longer the link between is than nineteen
of twenty links within."""

RUNS, SHARE, DISSOLVED = 3, 0.9, 0.5
"""Subsamples in which clusters must be found again, their share of the data, and the mean Jaccard
similarity below which a cluster counts as dissolved (Hennig, 2007)."""

ITERATIONS, PASSES = 30, 3
"""Passes of k-means at most, and after how many one looks whether they still change anything."""

AGREEMENT = 0.65
"""Adjusted Rand index that the partitions of two halves must have; by chance it is about 0."""


@dataclass(frozen=True)
class ClusterCount:
    """What :func:`choose_num_clusters` found.

    Attributes:
        num_clusters: the finest prominent peak of the silhouette where the halves agree; 1 where
            nothing tells the data from one bundle.
        candidates: numbers of clusters that were tried.
        silhouette: silhouette of each, in [-1, 1].
        agreement: adjusted Rand index of the partitions that two disjoint halves of the data
            induce on all of it, at most 1.
    """

    num_clusters: int
    candidates: tuple[int, ...]
    silhouette: tuple[float, ...]
    agreement: tuple[float, ...]


def kmeans(features: Tensor, num_clusters: int, *, restarts: int = 3, seed: int = 0) -> Tensor:
    """Return k-means centroids of the best of several k-means++ starts.

    Args:
        features: ``[N, F]``, on any device; scipy clusters them on the CPU.
        num_clusters: K.
        restarts: number of starts; the one with the smallest distortion wins.
        seed: of the starts.

    Returns:
        Centroids, ``[K', F]``; K' is below K only where there are fewer distinct points than K.

    Raises:
        ConfigurationError: if there are fewer points than clusters.
        NonFiniteError: if a feature is not finite.
    """
    _check(features, num_clusters)
    points, best, best_cost = features.double().cpu().numpy(), None, np.inf
    num_clusters = min(num_clusters, len(features.unique(dim=0)))
    for start in range(restarts):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
            centroids, labels = kmeans2(
                points, num_clusters, iter=PASSES, minit="++", rng=seed * restarts + start
            )
            for _ in range(ITERATIONS // PASSES - 1):
                before = centroids
                centroids, labels = kmeans2(points, before, iter=PASSES, minit="matrix")
                if np.array_equal(centroids, before):
                    break  # more passes would change nothing
        cost = float(np.square(points - centroids[labels]).sum())
        if cost < best_cost:
            best, best_cost = centroids[np.unique(labels)], cost
    return torch.from_numpy(best).to(features)


def choose_num_clusters(
    features: Tensor,
    *,
    candidates: Sequence[int] = CANDIDATES,
    samples: int = 2500,
    seed: int = 0,
) -> ClusterCount:
    """Choose a number of clusters without labels, by silhouette and split-half agreement.

    Behaviours are often nested (left or right, then which gap of the second row), and then the
    silhouette (Rousseeuw, 1987) has a peak at each level. The finest one counts, since codes to
    spare do no harm and missing ones cannot be made up for: the largest candidate at which the
    silhouette peaks after having fallen by at least 1 / sqrt(N), which is about its error, and for
    which partitions of two disjoint halves of the data agree (Ben-Hur et al., 2002), corrected for
    chance: mutual information grows with the number of clusters even where there are none.
    Likelihood and distortion would not do, being monotone.

    One bundle has its peaks too. So there is one cluster unless the silhouette of that peak is
    above that of unimodal data of the same covariance
    (:func:`~modereg.discovery.unimodal.is_above_unimodal`), or some line sees a valley between
    two heights (:func:`~modereg.discovery.unimodal.valley`). The first finds many behaviours, the
    second few of them in many dimensions. A bundle that is bent, such as a fan of half a circle,
    may exceed the first, and two behaviours that are less than about five standard deviations apart
    are one where there are only 200 episodes.

    Args:
        features: ``[N, F]``.
        candidates: numbers to try; those above N / 8 are left out.
        samples: at most so many points are used.
        seed: of the subsample and of k-means.

    Raises:
        ConfigurationError: if there are too few points for any candidate.
    """
    generator = torch.Generator().manual_seed(seed)
    features = features.cpu()  # k-means is scipy's
    points = features[torch.randperm(len(features), generator=generator)[:samples]]
    tried = tuple(k for k in candidates if k <= len(points) // 8)
    if not tried:
        raise ConfigurationError(
            f"expected at least {8 * min(candidates)} episodes to choose a number of clusters, got "
            f"{len(points)}; collect more, or give the number of codes yourself"
        )
    half, silhouettes, agreements = len(points) // 2, [], []
    for k in tried:
        first, second = (
            functional.nearest_centroid(points, kmeans(part, k, seed=seed))
            for part in (points[:half], points[half:])
        )
        silhouettes.append(_silhouette(points, k, seed))
        table = functional.contingency(first, second, k, k)
        agreements.append(float(functional.adjusted_rand_index(table)))
    agree = [value >= AGREEMENT for value in agreements]
    best = _finest_peak(silhouettes, agree, prominence=len(points) ** -0.5)

    def score(data: Tensor) -> float:
        return _silhouette(data, tried[best], seed)

    several = unimodal.has_valley(points, partial(kmeans, seed=seed)) or unimodal.is_above_unimodal(
        points[: unimodal.POINTS], score, generator
    )
    found = tried[best] if several else 1
    return ClusterCount(found, tried, tuple(silhouettes), tuple(agreements))


def find_behaviours(features: Tensor, *, seed: int = 0) -> Tensor:
    """Return the means ``[K, F]`` of the bundles into which data fall, at least one.

    Behaviours are nested, and of several sizes: a number of clusters that fits all of them at once
    is found by luck, and k-means, told their number, splits the large and joins the rare. So the
    data are clustered as :func:`choose_num_clusters` says, and each part again, until it is one
    bundle, or has too few points to tell; a handful of points that stand apart from one, which no
    clustering finds beside hundreds, are a part too. Then parts that are of one bundle after all,
    since no valley lies between them (:func:`~modereg.discovery.unimodal.one_height`) and both
    together do not fall apart either, are joined, the nearest first. What a split by luck made is
    not found again in another sample: clusters that dissolve in subsamples of nine tenths (Hennig,
    Cluster-wise assessment of cluster stability, 2007) are joined with the nearest, the least
    stable first, until all are stable.

    Args:
        features: ``[N, F]``, in random order.
        seed: of subsamples and k-means.

    Raises:
        ConfigurationError: if there are too few points to cluster.
    """
    points = features.cpu()  # k-means is scipy's
    labels = _stable(points, _partition(points, seed), seed)
    return torch.stack([points[labels == label].mean(0) for label in labels.unique()]).to(features)


def _partition(points: Tensor, seed: int) -> Tensor:
    """Return which bundle each point belongs to, ``[N]``."""
    parts = [points[rows] for rows in _split(points, seed)]
    means = torch.stack([part.mean(0) for part in _joined(parts, seed)])
    return functional.nearest_centroid(points, means)


def _stable(points: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return labels ``[N]`` of fewer clusters, of which none dissolves in subsamples."""
    labels, samples, number = labels.clone(), [], int(labels.max()) + 1
    enough = SHARE * len(points) >= 8 * min(FEW)  # as choose_num_clusters asks
    for run in range(RUNS if number > 1 and enough else 0):
        generator = torch.Generator().manual_seed(seed * RUNS + run)
        rows = torch.randperm(len(points), generator=generator)[: int(SHARE * len(points))]
        samples.append((rows, _partition(points[rows], seed + 1 + run)))
    while samples and len(names := labels.unique()) > 1:
        again = [_recovered(labels[rows], other, number) for rows, other in samples]
        found = torch.stack(again).mean(0)
        worst = int(found[names].argmin())
        if float(found[names][worst]) >= DISSOLVED:
            break
        means = torch.stack([points[labels == name].mean(0) for name in names])
        distances = (means - means[worst]).norm(dim=-1)
        distances[worst] = torch.inf
        labels[labels == names[worst]] = names[int(distances.argmin())]
    return labels


def _recovered(labels: Tensor, again: Tensor, number: int) -> Tensor:
    """Return how well a second clustering finds each cluster, as a Jaccard similarity, ``[K]``.

    A cluster is compared with all those of the second together that lie mostly in it.

    Args:
        labels: ``[N]`` int64.
        again: of the second clustering, ``[N]`` int64.
        number: K, of which some may be in none of these rows.
    """
    table = functional.contingency(again, labels, int(again.max()) + 1, number).double()
    mine = torch.nn.functional.one_hot(table.argmax(1), number).double()
    common = (mine * table).sum(0)
    both = mine.T @ table.sum(1) + table.sum(0) - common
    return common / both.clamp_min(1.0)


def _split(features: Tensor, seed: int) -> list[Tensor]:
    """Return the rows of each bundle, some of them in several parts."""
    every = torch.arange(len(features), device=features.device)
    found = choose_num_clusters(features, candidates=FEW, seed=seed).num_clusters
    if found == 1:
        labels = _apart(features)
        return [every[labels == label] for label in labels.unique()]
    labels = functional.nearest_centroid(features, kmeans(features, found, seed=seed))
    parts: list[Tensor] = []
    for label in labels.unique():
        rows = every[labels == label]
        if len(rows) < SPLIT:
            parts.append(rows)
        else:
            parts += [rows[finer] for finer in _split(features[rows], seed)]
    return parts


def _apart(points: Tensor) -> Tensor:
    """Return labels ``[N]`` of few points that stand apart from a bundle, and of the bundle.

    No clustering of all finds a handful of points beside hundreds. Where the nearest of each are
    linked (single linkage), they hang on a link much longer than others. Fewer than that are of the
    bundle that is nearest.
    """
    links = linkage(points.double().numpy(), "single")
    parts = fcluster(links, GAP * np.quantile(links[:, 2], 0.95), "distance")
    labels = torch.from_numpy(parts.astype(np.int64))
    names, sizes = labels.unique(return_counts=True)
    names = names[sizes >= HANDFUL]
    if len(names) < 2:
        return torch.zeros_like(labels)
    means = torch.stack([points[labels == name].mean(0) for name in names])
    inside = torch.isin(labels, names)
    return names[functional.nearest_centroid(points, means)].where(~inside, labels)


def _joined(parts: list[Tensor], seed: int) -> list[Tensor]:
    """Return the points of each bundle, with those parts as one that have no valley between."""
    bundles, number = dict(enumerate(parts)), len(parts)
    apart: set[tuple[int, int]] = set()
    while True:
        means = {name: part.mean(0) for name, part in bundles.items()}
        pairs = [pair for pair in combinations(bundles, 2) if pair not in apart]
        pairs.sort(key=lambda pair: float((means[pair[0]] - means[pair[1]]).norm()))
        for pair in pairs:
            first, second = (bundles[name] for name in pair)
            if unimodal.one_height(first, second):
                both = _shuffled(torch.cat([first, second]), number)
                if _is_one(both, seed):
                    break
            apart.add(pair)
        else:
            return list(bundles.values())
        for name in pair:
            del bundles[name]
        bundles[number], number = both, number + 1


def _shuffled(points: Tensor, seed: int) -> Tensor:
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))]


def _is_one(points: Tensor, seed: int) -> bool:
    """Return whether points do not visibly fall apart, as far as there are enough to tell."""
    few = len(points) < SPLIT
    return few or choose_num_clusters(points, candidates=FEW, seed=seed).num_clusters == 1


def _silhouette(points: Tensor, num_clusters: int, seed: int) -> float:
    labels = functional.nearest_centroid(points, kmeans(points, num_clusters, seed=seed))
    return float(functional.silhouette(points, labels))


def _finest_peak(scores: Sequence[float], eligible: Sequence[bool], prominence: float) -> int:
    """Return the last prominent peak, else the highest eligible score, else the coarsest place.

    What is not eligible is no peak, and hides none beside it.
    """
    values = [score if fit else -np.inf for score, fit in zip(scores, eligible, strict=True)]
    for place in range(len(values) - 1, 0, -1):
        if values[place] < max(values[place:]) or not eligible[place]:
            continue
        left = place - 1
        lowest = np.inf
        while left >= 0 and values[left] <= scores[place]:
            lowest = min(lowest, scores[left])
            left -= 1
        if scores[place] - lowest >= prominence:
            return place
    return int(np.argmax(values)) if any(eligible) else 0


def _check(features: Tensor, num_clusters: int) -> None:
    if features.ndim != 2:
        raise ShapeError(f"expected features of shape [N, F], got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError(
            "the features to cluster hold a NaN or an infinity; look at the observations of the "
            "base's episodes"
        )
    if len(features) < num_clusters:
        raise ConfigurationError(
            f"expected at least {num_clusters} episodes for {num_clusters} clusters, got "
            f"{len(features)}; collect more or ask for fewer codes"
        )
