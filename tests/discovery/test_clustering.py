from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modereg import functional
from modereg.discovery import clustering
from modereg.discovery.clustering import (
    ClusterCount,
    _finest_peak,
    choose_num_clusters,
    find_behaviours,
    kmeans,
)
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.tasks import avoid_task

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _blobs(centres: Tensor, size: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(centres)).repeat(size)
    noise = torch.randn((len(labels), centres.shape[1]), generator=generator)
    order = torch.randperm(len(labels), generator=generator)
    return (centres[labels] + spread * noise)[order], labels[order]


def _circle(number: int, radius: float = 1.0) -> Tensor:
    angle = 2 * torch.pi * torch.arange(number) / number
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize("number", [2, 3, 5, 8, 12])
def test_separate_blobs_are_counted(number: int) -> None:
    points, _ = _blobs(_circle(number), 60, 0.04)
    found = choose_num_clusters(points)
    assert found.num_clusters == number
    assert len(found.candidates) == len(found.silhouette) == len(found.agreement)
    assert found.silhouette[found.candidates.index(number)] == max(found.silhouette)
    assert found.agreement[found.candidates.index(number)] > 0.85  # k-means has local optima
    assert found == choose_num_clusters(points)


def test_of_nested_behaviours_the_finest_level_counts() -> None:
    """Left or right far apart, four gaps each beyond: the silhouette is higher at 2 than at 8."""
    sides = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])
    centres = (sides[:, None] + torch.tensor([[0.0, float(y)] for y in range(4)])).flatten(0, 1)
    points, _ = _blobs(centres, 100, 0.08)
    found = choose_num_clusters(points)
    assert found.num_clusters == 8
    assert found.silhouette[0] > found.silhouette[found.candidates.index(8)] * 0.9


def test_units_of_the_features_do_not_matter_but_their_ratio_does() -> None:
    points, _ = _blobs(_circle(4), 60, 0.05)
    assert choose_num_clusters(points * 1000).num_clusters == 4
    noise = 0.02 * torch.randn(len(points), 6)
    assert choose_num_clusters(torch.cat([points, noise], -1)).num_clusters == 4


def _bundle(kind: str, size: int, dim: int, seed: int) -> Tensor:
    """One behaviour: a ball, straight paths in a plane, a line, or a line that is evenly full."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((size, dim), generator=generator)
    if kind == "ball":
        return noise
    if kind == "paths":
        share = torch.linspace(0, 1, dim // 2 + 1)[1:, None]
        return (share * noise[:, None, :2]).flatten(1) + 0.01 * noise.roll(1, 0)
    place = noise[:, :1] if kind == "line" else torch.rand((size, 1), generator=generator)
    return place * torch.randn((1, dim), generator=generator) + 0.05 * noise.roll(1, 0)


@pytest.mark.parametrize("kind", ["ball", "paths", "line", "even"])
@pytest.mark.parametrize(("size", "dim"), [(600, 2), (300, 8), (200, 64)])
def test_one_bundle_is_one_cluster(kind: str, dim: int, size: int) -> None:
    for seed in range(3):
        found = choose_num_clusters(_bundle(kind, size, dim, seed), seed=seed)
        assert found.num_clusters == 1, seed


@pytest.mark.parametrize("dim", [2, 8, 64])
@pytest.mark.parametrize(
    ("number", "size", "stretch", "shares"),
    [
        (2, 300, 1.0, (1.0, 1.0)),
        (2, 600, 1.0, (1.0, 4.0)),
        (2, 600, 2.0, (1.0, 1.0)),
        (5, 600, 1.0, (1.0, 1.0, 2.0, 2.0, 3.0)),
        (8, 600, 1.0, (1.0,) * 8),
    ],
)
def test_behaviours_are_more_than_one_bundle(
    dim: int, number: int, size: int, stretch: float, shares: tuple[float, ...]
) -> None:
    """Eight standard deviations apart in whatever dimension, unequal or elongated."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn((number, dim), generator=generator)
    centres *= 8 * max(1.0, stretch) / torch.pdist(centres).min()
    labels = torch.multinomial(torch.tensor(shares), size, True, generator=generator)
    noise = torch.randn((size, dim), generator=generator)
    noise[:, 0] *= stretch
    assert choose_num_clusters(centres[labels] + noise).num_clusters > 1


@pytest.mark.parametrize("few", [8, 15])
def test_a_handful_that_stands_apart_is_a_behaviour(few: int) -> None:
    sizes, generator = [600, 400, few], torch.Generator().manual_seed(few)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 1.5]])
    noise = 0.1 * torch.randn((len(labels), 6), generator=generator)
    order = torch.randperm(len(labels), generator=generator)
    points, labels = (
        (torch.nn.functional.pad(centres[labels], (0, 4)) + noise)[order],
        labels[order],
    )
    found = find_behaviours(points)
    assert len(found) == 3
    assert _share_told_apart(points, labels, found) == 1.0


def test_the_routes_of_avoid_are_counted() -> None:
    task = avoid_task()
    shown = task.demonstrate(800, 0)
    paths = shown.observations["observation"][:, ::8, list(task.layout.feature_dims)]
    assert choose_num_clusters(paths.flatten(1)).num_clusters >= 20


@pytest.mark.parametrize(
    ("scores", "eligible", "place"),
    [
        ([0.9, 0.5, 0.6, 0.4], [1, 1, 1, 1], 2),  # the last that rises above a valley
        ([0.9, 0.5, 0.5004, 0.4], [1, 1, 1, 1], 0),  # not by enough
        ([0.5, 0.6, 0.7], [1, 1, 1], 2),
        ([0.9, 0.5, 0.6, 0.8], [1, 1, 1, 0], 2),  # what is not eligible hides no peak beside it
        ([0.9, 0.5, 0.8, 0.7], [1, 1, 0, 1], 3),
        ([0.7, 0.9, 0.5, 0.4], [1, 0, 1, 1], 0),  # a fall alone is no peak
        ([0.9, 0.5, 0.6], [0, 0, 0], 0),
        ([0.2, 0.3, 0.1], [0, 0, 1], 2),  # the only one that is left
    ],
)
def test_the_finest_peak(scores: list[float], eligible: list[int], place: int) -> None:
    assert _finest_peak(scores, [bool(fit) for fit in eligible], prominence=0.01) == place


@pytest.mark.parametrize("kind", ["ball", "paths", "line", "even"])
@pytest.mark.parametrize(("size", "dim"), [(600, 2), (300, 8)])
def test_one_bundle_is_one_behaviour(kind: str, dim: int, size: int) -> None:
    assert len(find_behaviours(_bundle(kind, size, dim, 0))) == 1


@pytest.mark.parametrize("number", [2, 5, 12])
def test_separate_behaviours_are_all_counted(number: int) -> None:
    points, labels = _blobs(_circle(number), 60, 0.04)
    found = find_behaviours(points)
    assert _share_told_apart(points, labels, found) == 1.0
    if number == 2:
        assert torch.equal(found, find_behaviours(points))


def _share_told_apart(points: Tensor, labels: Tensor, means: Tensor) -> float:
    """Return how many points lie nearest to their own label's mean, 0 if others are as many."""
    number = int(labels.max()) + 1
    if len(means) != number:
        return 0.0
    table = functional.contingency(
        functional.nearest_centroid(points, means), labels, number, number
    )
    return float(table.amax(1).sum()) / len(points)


@pytest.mark.parametrize("seed", range(2))
def test_a_behaviour_that_was_split_is_one_again(seed: int) -> None:
    """K-means, told their number, splits the longest of seven and joins two of the others."""
    centres = 3.0 * _circle(7)
    points, labels = _blobs(centres, 150, 0.08)
    generator = torch.Generator().manual_seed(seed)
    points[labels == 0] += 2 * torch.rand(150, 1, generator=generator) - 1
    found = find_behaviours(points, seed=seed)
    assert _share_told_apart(points, labels, found) > 0.95


def test_how_well_a_cluster_is_found_again() -> None:
    """Of 0 it misses two of four, of 1 it has two in two parts and one of 0; 2 is nowhere."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    again = torch.tensor([5, 5, 1, 1, 1, 1, 1, 5])
    found = clustering._recovered(labels, again, 4)
    assert found.tolist() == pytest.approx([2 / 5, 3 / 5, 0.0, 0.0])
    finer = torch.tensor([0, 0, 3, 3, 1, 1, 1, 2])
    assert clustering._recovered(labels, finer, 3).tolist() == [1.0, 1.0, 1.0]


def test_a_split_by_luck_is_undone_and_another_is_not() -> None:
    """Nothing in the data tells the halves of the first bundle apart; the other three are there."""
    points, truth = _blobs(4.0 * _circle(4), 120, 0.3)
    luck = torch.where((truth == 0) & (torch.arange(len(truth)) % 2 == 0), 4, truth)
    assert torch.equal(clustering._stable(points, truth, 0), truth)
    joined = clustering._stable(points, luck, 0)
    table = functional.contingency(joined, truth, 5, 4)
    assert len(joined.unique()) == 4
    assert int((table > 0).sum()) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_single_outlier_is_no_trouble(seed: int) -> None:
    """Some subsample is without it."""
    points, _ = _blobs(4.0 * _circle(2), 60, 0.1, seed)
    points = torch.cat([points, torch.tensor([[40.0, 40.0]])])
    assert 2 <= len(find_behaviours(points, seed=seed)) <= 3
    assert len(find_behaviours(points[:17], seed=seed)) >= 1


def test_nested_behaviours_are_counted_whatever_their_scales() -> None:
    """Three far apart; one falls apart into four close ones, one of these into two closer ones."""
    outer = torch.tensor([[-40.0, 0.0], [40.0, 0.0], [0.0, 60.0]])
    middle = outer[0] + 5 * _circle(4)
    inner = middle[0] + torch.tensor([[0.0, -0.6], [0.0, 0.6]])
    points, labels = _blobs(torch.cat([outer[1:], middle[1:], inner]), 120, 0.08)
    assert choose_num_clusters(points).num_clusters < 7, "which one level of clusters cannot tell"
    assert _share_told_apart(points, labels, find_behaviours(points)) > 0.99


@pytest.mark.parametrize("number", [1, 2, 3])
def test_features_of_few_values_are_as_many_behaviours(number: int) -> None:
    assert len(find_behaviours(_circle(number).repeat(300 // number, 1))) == number


def test_rare_behaviours_are_counted_beside_frequent_ones() -> None:
    sizes, generator = [900, 500, 200, 100, 30], torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    noise = 0.12 * torch.randn((len(labels), 6), generator=generator)
    centres = torch.nn.functional.pad(_circle(5), (0, 4))
    order = torch.randperm(len(labels), generator=generator)
    points = (centres[labels] + noise)[order]
    labels = labels[order]
    assert _share_told_apart(points, labels, find_behaviours(points)) > 0.99


def test_the_routes_of_avoid_are_counted_part_by_part() -> None:
    task = avoid_task()
    shown = task.demonstrate(800, 0)
    paths = shown.observations["observation"][:, ::8, list(task.layout.feature_dims)]
    found = find_behaviours(paths.flatten(1))
    assert _share_told_apart(paths.flatten(1), shown.modes, found) > 0.99


def test_points_may_be_on_another_device() -> None:
    assert kmeans(torch.randn(40, 2, dtype=torch.float64), 3).dtype == torch.float64
    points = torch.randn(40, 2, device=DEVICE)
    assert kmeans(points, 3).device == points.device
    choose_num_clusters(points)


def test_too_few_episodes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"at least 16 episodes .* got 15; collect more"):
        choose_num_clusters(torch.randn(15, 2))
    found = choose_num_clusters(torch.randn(16, 2))
    assert found.candidates == (2,)
    assert isinstance(found, ClusterCount)


def test_not_finite_is_refused() -> None:
    points = torch.randn(40, 2)
    points[7, 1] = torch.nan
    for attempt in (lambda: kmeans(points, 2), lambda: choose_num_clusters(points)):
        with pytest.raises(NonFiniteError, match="NaN or an infinity; look at the observations"):
            attempt()


def test_shapes_and_sizes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"\[N, F\], got \(4, 3, 2\)"):
        kmeans(torch.zeros(4, 3, 2), 2)
    with pytest.raises(ConfigurationError, match="at least 5 episodes for 5 clusters, got 4"):
        kmeans(torch.randn(4, 2), 5)


def test_fewer_distinct_points_than_clusters() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
    centroids = kmeans(points, 5)
    assert len(centroids) <= 5
    assert torch.allclose(functional.squared_distances(points, centroids).amin(-1), torch.zeros(60))


def test_as_scikit_learn_clusters() -> None:
    from sklearn.cluster import KMeans

    points, labels = _blobs(torch.randn(6, 5) * 3, 50, 0.7)
    ours = kmeans(points, 6, restarts=8)
    theirs = KMeans(6, n_init=8, random_state=0).fit(points.numpy())
    distortion = functional.squared_distances(points, ours).amin(-1).sum()
    assert float(distortion) == pytest.approx(theirs.inertia_, rel=1e-3)
    table = functional.contingency(functional.nearest_centroid(points, ours), labels, 6, 6)
    assert float(functional.normalized_mutual_information(table)) > 0.95


@given(st.integers(1, 6), st.integers(0, 1000))
def test_centroids_are_the_means_of_their_points(number: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn((80, 3), generator=generator, dtype=torch.float64)
    centroids = kmeans(points, number, seed=seed)
    assert centroids.dtype == points.dtype
    nearest = functional.nearest_centroid(points, centroids).numpy()
    assert set(nearest) == set(range(len(centroids)))
    worst = max(
        np.abs(points.numpy()[nearest == k].mean(0) - centroids[k].numpy()).max()
        for k in range(len(centroids))
    )
    assert worst < 0.2  # exact once converged; 30 iterations get this close on noise


def test_more_restarts_are_not_worse() -> None:
    points, _ = _blobs(_circle(10), 20, 0.15)
    costs = [
        float(functional.squared_distances(points, kmeans(points, 10, restarts=r)).amin(-1).sum())
        for r in (1, 8)
    ]
    assert costs[1] <= costs[0] + 1e-6
