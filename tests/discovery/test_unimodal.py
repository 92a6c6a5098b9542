"""One bundle against several: the null reference of the silhouette, and valleys along lines."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from modereg import functional
from modereg.discovery.clustering import kmeans
from modereg.discovery.unimodal import has_valley, unimodal_silhouette, valley


def _silhouette(points: Tensor) -> float:
    labels = functional.nearest_centroid(points, kmeans(points, 4))
    return float(functional.silhouette(points, labels))


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_is_above_one_bundle_and_below_four(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bundle = torch.randn((400, 5), generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0])
    assert _silhouette(bundle) < unimodal_silhouette(bundle, _silhouette, generator)
    corners = torch.tensor([[6.0, 6.0], [6.0, -6.0], [-6.0, 6.0], [-6.0, -6.0]]).repeat(100, 1)
    four = corners + torch.randn((400, 2), generator=generator)
    assert _silhouette(four) > unimodal_silhouette(four, _silhouette, generator) + 0.2


@pytest.mark.parametrize("shape", ["gaussian", "uniform", "exponential"])
def test_one_height_has_no_valley(shape: str) -> None:
    """All of them log-concave, and skewed ones too."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn((1000, 6), generator=generator)
    if shape != "gaussian":
        points = torch.rand((1000, 6), generator=generator)
    if shape == "exponential":
        points = -points.log()
    assert not has_valley(points, kmeans)


def test_two_heights_have_one_in_many_dimensions_too() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn((600, 64), generator=generator)
    points[::2] += 7 / 8  # seven standard deviations along the diagonal
    found = valley(points, 2, partial(kmeans, seed=1))
    assert found > 6
    assert has_valley(points, kmeans)
    assert valley(points[::2], 2, kmeans) < 3


def test_few_points_are_not_asked() -> None:
    assert not has_valley(torch.randn(15, 3), kmeans)
