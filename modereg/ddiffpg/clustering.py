"""Which trajectories go the same way: by hierarchies of warped distances, or by their features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from modereg import functional
from modereg.ddiffpg.warping import WarpedDistances, warped_distances
from modereg.discovery.clustering import find_behaviours
from modereg.errors import ConfigurationError

__all__ = [
    "BehaviourClusters",
    "OneCluster",
    "PathClusters",
    "WarpedClusters",
    "split_hierarchy",
]

APART = 0.6
"""Mean silhouette of a division from which its parts count as ways of their own."""

FEWEST = 3
"""Paths that a way must have; fewer that stand apart are of none."""

MOST = 8
"""Parts into which a node of the hierarchy falls at once."""

REPRESENTATIVES = 5
"""Paths of each cluster that new ones are compared with: those nearest to all others of it."""


def split_hierarchy(
    distances: Tensor, *, apart: float = APART, fewest: int = FEWEST, most: int = MOST
) -> Tensor:
    """Return which cluster each path belongs to, ``[N]`` int64 from 0, or -1; at least one cluster.

    The tree of average linkage is cut into 2 to ``most`` parts; the cut of the highest silhouette
    counts if it is at least ``apart``, and each part is looked at again. A share of the tallest
    link, DDiffPG's usual threshold, makes at least two clusters of anything.

    Args:
        distances: ``[N, N]``, symmetric.
        apart: silhouette of a division that counts.
        fewest: members of a cluster; fewer that stand apart belong to none, until they are more.
        most: parts of one division.

    Raises:
        ConfigurationError: if there is no path, or the distances are not square.
    """
    if distances.ndim != 2 or len(distances) < 1 or distances.shape[0] != distances.shape[1]:
        raise ConfigurationError(
            f"expected distances [N, N] of at least one path, got {tuple(distances.shape)}"
        )
    labels = torch.zeros(len(distances), dtype=torch.int64)
    pending, found = [torch.arange(len(distances))], 0
    while pending:
        rows = pending.pop(0)
        part = _divided(distances[rows[:, None], rows], apart, fewest, most)
        if part is None:
            labels[rows], found = found, found + 1
        else:
            labels[rows[part < 0]] = -1
            pending += [rows[part == label] for label in part.unique() if label >= 0]
    return labels


def _divided(distances: Tensor, apart: float, fewest: int, most: int) -> Tensor | None:
    """Return the best division of a node's paths, ``[n]`` from -1, None if it is one way."""
    if len(distances) < 2 * fewest:
        return None
    tree = linkage(squareform(distances.numpy(), checks=False), "average")
    best, score = None, apart
    for parts in range(2, most + 1):
        labels = torch.from_numpy(fcluster(tree, parts, "maxclust")).long() - 1
        sizes = torch.bincount(labels)
        whole = sizes[labels] >= fewest
        if int((sizes >= fewest).sum()) < 2:
            continue
        rows = whole.nonzero().squeeze(-1)
        among = distances[rows[:, None], rows]
        found = float(functional.silhouette_of_distances(among, labels[rows]))
        found *= len(rows) / len(distances)  # the others count as 0
        if found > score:
            best, score = torch.where(whole, labels, -1), found
    return best


class PathClusters(ABC):
    """Clusters trajectories, and tells to which cluster others belong."""

    def __init__(self) -> None:
        self.representatives: list[list[Tensor]] = []

    def fit(self, ids: Sequence[int], paths: Sequence[Tensor]) -> Tensor:
        """Cluster paths, and remember some of each cluster.

        Args:
            ids: a number of each path that no other ever has.
            paths: ``[T, d]`` each, at least one.

        Returns:
            ``[N]`` int64, from 0; -1 for those of none.
        """
        distances = self._among(ids, paths)
        labels = self._labels(distances, paths)
        self.representatives = []
        for label in range(int(labels.max()) + 1):
            rows = (labels == label).nonzero().squeeze(-1)
            central = distances[rows[:, None], rows].mean(1).argsort()[:REPRESENTATIVES]
            self.representatives.append([paths[row] for row in rows[central].tolist()])
        return labels

    def restore(self, representatives: list[list[Tensor]]) -> None:
        """Go on from representatives of before, and forget whatever else is known of paths."""
        self.representatives = representatives

    def assign(self, paths: Sequence[Tensor]) -> Tensor:
        """Return the nearest cluster of each path, ``[N]`` int64; -1 where there is none."""
        if not self.representatives or not len(paths):
            return torch.full((len(paths),), -1, dtype=torch.int64)
        known = [path for group in self.representatives for path in group]
        owner = torch.tensor(
            [label for label, group in enumerate(self.representatives) for _ in group]
        )
        return owner[self._distances(paths, known).argmin(1)]

    def _among(self, ids: Sequence[int], paths: Sequence[Tensor]) -> Tensor:
        """Return the distances among paths, ``[N, N]`` float64."""
        return self._distances(paths, paths)

    @abstractmethod
    def _labels(self, distances: Tensor, paths: Sequence[Tensor]) -> Tensor:
        """Return the cluster of each path, ``[N]`` int64 from 0, or -1."""

    @abstractmethod
    def _distances(self, paths: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """Return ``[N, M]`` float64."""


class WarpedClusters(PathClusters):
    """DDiffPG's way: dynamic time warping, average linkage, and a cut that need not split.

    Args:
        capacity: paths whose distances are kept.
        apart: see :func:`split_hierarchy`.

    Raises:
        MissingDependencyError: if dtaidistance is not installed.
    """

    def __init__(self, capacity: int = 512, apart: float = APART) -> None:
        super().__init__()
        self.distances, self.apart = WarpedDistances(capacity), apart
        warped_distances([torch.zeros(1, 1)], [torch.zeros(1, 1)])

    def restore(self, representatives: list[list[Tensor]]) -> None:
        """Go on from representatives of before, with no distance computed yet."""
        super().restore(representatives)
        self.distances.of([], [])

    def _among(self, ids: Sequence[int], paths: Sequence[Tensor]) -> Tensor:
        return self.distances.of(ids, paths)

    def _labels(self, distances: Tensor, paths: Sequence[Tensor]) -> Tensor:
        return split_hierarchy(distances, apart=self.apart)

    def _distances(self, paths: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        return warped_distances(paths, others)


class BehaviourClusters(PathClusters):
    """The clusters of stage 1, :func:`~modereg.discovery.clustering.find_behaviours`.

    Paths are compared at equal distances along themselves, so that speed does not count.

    Args:
        points: at which a path is read.
        seed: of its subsamples.
    """

    def __init__(self, points: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.points, self.seed = points, seed

    def _labels(self, distances: Tensor, paths: Sequence[Tensor]) -> Tensor:
        features = self._read(paths)
        if len(features) < 16:  # as many as two clusters need
            return torch.zeros(len(features), dtype=torch.int64)
        order = torch.randperm(
            len(features), generator=torch.Generator().manual_seed(self.seed)
        )  # which find_behaviours asks for
        means = find_behaviours(features[order], seed=self.seed)
        labels = functional.nearest_centroid(features, means)
        return labels.unique(return_inverse=True)[1]

    def _distances(self, paths: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        return torch.cdist(self._read(paths), self._read(others)) / self.points**0.5

    def _read(self, paths: Sequence[Tensor]) -> Tensor:
        """Return features of paths, ``[N, points * d]`` float64."""
        size = self.points
        padded = []
        for path in paths:
            path = path.double().cpu()
            index = torch.linspace(0, len(path) - 1, size, dtype=torch.float64)
            low = index.floor().long()
            weight = (index - low).unsqueeze(-1)
            padded.append(path[low].lerp(path[(low + 1).clamp_max(len(path) - 1)], weight))
        return functional.along_path(torch.stack(padded).flatten(1), paths[0].shape[-1])


class OneCluster(PathClusters):
    """All trajectories in one, for the ablation with a single critic."""

    def _labels(self, distances: Tensor, paths: Sequence[Tensor]) -> Tensor:
        return torch.zeros(len(paths), dtype=torch.int64)

    def _distances(self, paths: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        return torch.zeros(len(paths), len(others), dtype=torch.float64)
