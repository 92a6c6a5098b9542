from __future__ import annotations

import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from modereg import functional
from modereg.ddiffpg.clustering import (
    BehaviourClusters,
    OneCluster,
    PathClusters,
    WarpedClusters,
    split_hierarchy,
)
from modereg.ddiffpg.warping import warped_distances
from modereg.errors import ConfigurationError
from tests.ddiffpg.bundles import fan, four_ways, one_way

BOTH = [WarpedClusters, BehaviourClusters]


def _alike(found: Tensor, truth: Tensor) -> float:
    table = functional.contingency(found, truth, int(found.max()) + 1, int(truth.max()) + 1)
    return float(functional.adjusted_rand_index(table))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("seed", range(3))
def test_four_ways_are_four_clusters(kind: type[PathClusters], seed: int) -> None:
    paths, sides = four_ways(80, seed)
    clusters = kind()
    labels = clusters.fit(range(80), paths)
    assert int(labels.max()) == 3
    assert _alike(labels, sides) > 0.95
    others, sides = four_ways(40, 10 + seed)
    assert _alike(clusters.assign(others), sides) > 0.95


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("width", [0.0, 1.2])
def test_one_bundle_is_not_split(kind: type[PathClusters], width: float) -> None:
    for seed in range(3):
        assert int(kind().fit(range(100), one_way(100, seed, width)).max()) == 0


def test_a_share_of_the_tallest_link_splits_one_bundle() -> None:
    """The threshold of DDiffPG's code, which ours is not."""
    paths = one_way(60, 0)
    distances = warped_distances(paths, paths)
    tree = linkage(squareform(distances.numpy(), checks=False), "average")
    assert fcluster(tree, 0.7 * tree[:, 2].max(), "distance").max() > 1
    assert int(split_hierarchy(distances).max()) == 0


def test_parts_of_parts_are_found() -> None:
    angles = torch.tensor([0.0, 0.5, torch.pi, torch.pi + 0.5]).repeat(20)
    paths = fan(angles, 0, spread=0.04)
    labels = split_hierarchy(warped_distances(paths, paths))
    kept = labels >= 0
    assert int(kept.sum()) >= 78
    assert _alike(labels[kept], (torch.arange(80) % 4)[kept]) == 1.0


def test_few_that_stand_apart_belong_to_none_until_they_are_more() -> None:
    for few, mode in ((2, False), (3, True)):
        paths = fan(torch.tensor([0.0, 1.6] * 20 + [3.2] * few), 0, spread=0.05)
        labels = split_hierarchy(warped_distances(paths, paths))
        assert len(labels[labels >= 0].unique()) == 2 + mode
        assert (labels[-few:] >= 0).tolist() == [mode] * few


def test_a_single_path_is_a_cluster_and_nothing_is_assigned_before() -> None:
    for clusters in (WarpedClusters(), BehaviourClusters(), OneCluster()):
        paths = one_way(3, 0)
        assert clusters.assign(paths).tolist() == [-1] * 3
        assert clusters.fit([0], paths[:1]).tolist() == [0]
        assert clusters.assign(paths).tolist() == [0] * 3
        assert clusters.assign([]).tolist() == []


def test_one_cluster_takes_all() -> None:
    paths, _ = four_ways(12, 0)
    assert OneCluster().fit(range(12), paths).tolist() == [0] * 12


def test_bad_distances_are_refused() -> None:
    for bad in (torch.zeros(2, 3), torch.zeros(0, 0)):
        with pytest.raises(ConfigurationError, match=r"distances \[N, N\]"):
            split_hierarchy(bad)
