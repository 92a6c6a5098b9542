"""One bundle against several: the null reference of the silhouette, and valleys along lines."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from modereg import functional
from modereg.discovery.clustering import kmeans
from modereg.discovery.unimodal import has_valley, is_above_unimodal, one_height, valley


def _silhouette(points: Tensor) -> float:
    labels = functional.nearest_centroid(points, kmeans(points, 4))
    return float(functional.silhouette(points, labels))


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_is_above_one_bundle_and_below_four(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bundle = torch.randn((400, 5), generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0])
    assert not is_above_unimodal(bundle, _silhouette, generator)
    corners = torch.tensor([[6.0, 6.0], [6.0, -6.0], [-6.0, 6.0], [-6.0, -6.0]]).repeat(100, 1)
    four = corners + torch.randn((400, 2), generator=generator)
    assert is_above_unimodal(four, lambda data: _silhouette(data) - 0.2 * (data is four), generator)


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


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
def test_halves_of_one_bundle_are_joined_and_bundles_are_not(gap: float) -> None:
    """In standard deviations; at 1 the density of both together has one height still."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn((400, 5), generator=generator)
    points[::2, 0] += gap
    middle = gap / 2
    first, second = points[points[:, 0] < middle], points[points[:, 0] >= middle]
    assert one_height(first, second) == (gap < 2)


@pytest.mark.parametrize("rare", [2, 6, 30])
def test_a_few_points_apart_are_a_bundle_of_their_own(rare: int) -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn((400, 3), generator=generator)
    few = torch.randn((rare, 3), generator=generator) + 8.0
    assert not one_height(points, few)
    assert not one_height(few, points)


def test_points_of_one_place_are_one_bundle() -> None:
    assert one_height(torch.ones(20, 2), torch.ones(9, 2))
