"""Distances and silhouettes against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn import metrics as sk

from modereg import functional

SEEDS = st.integers(0, 10_000)


@given(SEEDS)
def test_distances_and_nearest_centroids(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = cdist(x, y, "sqeuclidean")
    np.testing.assert_allclose(functional.squared_distances(x, y), expected, rtol=1e-9)
    np.testing.assert_array_equal(functional.nearest_centroid(x, y), expected.argmin(1))
    assert (functional.squared_distances(x, x).diagonal() == 0).all()


@given(SEEDS, st.integers(2, 6))
def test_silhouette_agrees_with_scikit_learn(seed: int, clusters: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(clusters, (80,), generator=generator) * 3
    labels[0], labels[1] = 100, 0  # a cluster of one point, and numbers with gaps
    points = torch.randn(80, 4, generator=generator, dtype=torch.float64) + labels[:, None] / 3
    assert float(functional.silhouette(points, labels)) == pytest.approx(
        sk.silhouette_score(points, labels), abs=1e-9
    )


@given(SEEDS, st.lists(st.integers(1, 3), min_size=2, max_size=4).filter(lambda n: max(n) > 1))
def test_silhouette_of_few_and_small_clusters(seed: int, sizes: list[int]) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed)).double()
    assert float(functional.silhouette(points, labels)) == pytest.approx(
        sk.silhouette_score(points, labels), abs=1e-9
    )


def test_silhouette_of_one_cluster_is_zero() -> None:
    assert float(functional.silhouette(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))) == 0
