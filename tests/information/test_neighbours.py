"""Nearest-neighbour estimates against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

from modereg import functional
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.information import (
    kozachenko_leonenko_entropy,
    ksg_information,
    particle_entropy,
    ross_information,
)

SEEDS = st.integers(0, 10_000)


def points(seed: int, size: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=generator, dtype=dtype)


def gaussians(seed: int, size: int, dim: int, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = points(seed, size, dim), points(seed + 1, size, dim)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def codes(seed: int, size: int, num_codes: int) -> torch.Tensor:
    return torch.randint(num_codes, (size,), generator=torch.Generator().manual_seed(seed))


def gao(seed: int, size: int, num_codes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Z uniform over m codes, S uniform over [Z, Z + 2) (Gao et al., arXiv 1709.06212)."""
    latent = codes(seed, size, num_codes)
    return latent, latent + 2 * torch.rand(size, dtype=torch.float64)


def chebyshev(x: np.ndarray) -> np.ndarray:
    distances = np.abs(x[:, None] - x[None]).max(-1)
    np.fill_diagonal(distances, np.inf)
    return distances


def brute_ksg(x: np.ndarray, y: np.ndarray, k: int, algorithm: int) -> float:
    """KSG by its definition, with all pairs; x and y have mean 0 and deviation 1."""
    near_x, near_y = chebyshev(x), chebyshev(y)
    joint = np.maximum(near_x, near_y)
    constant = digamma(k) + digamma(len(x))
    if algorithm == 1:
        radius = np.sort(joint)[:, k - 1 : k]
        num_x, num_y = (near_x < radius).sum(1), (near_y < radius).sum(1)
        return constant - (digamma(num_x + 1) + digamma(num_y + 1)).mean()
    nearest = np.argsort(joint)[:, :k]
    counts = []
    for near in (near_x, near_y):
        extent = np.take_along_axis(near, nearest, 1).max(1, keepdims=True)
        counts.append((near <= extent).sum(1))
    return constant - 1 / k - (digamma(counts[0]) + digamma(counts[1])).mean()


def standardised(x: torch.Tensor) -> np.ndarray:
    array = x.numpy()
    return (array - array.mean(0)) / array.std(0)


# Dimensions that are sorted, that go into a tree, and that are compared pair by pair.
@pytest.mark.parametrize("dims", [(1, 1), (1, 3), (2, 2), (10, 1)])
@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("k", [1, 4])
def test_ksg_is_its_definition(dims: tuple[int, int], algorithm: Literal[1, 2], k: int) -> None:
    x = points(0, 150, dims[0])
    y = points(1, 150, dims[1]) + x[:, :1]
    found = ksg_information(x, y, k=k, algorithm=algorithm, jitter=0)
    expected = brute_ksg(standardised(x), standardised(y), k, algorithm)
    assert found == pytest.approx(expected, abs=1e-12)
    assert ksg_information(x, y, k=k, algorithm=algorithm) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("k", [1, 4])
def test_ross_is_its_definition(dim: int, k: int) -> None:
    latent = codes(0, 150, 4)
    latent[:3] = torch.tensor([7, 8, 8])  # a code that was seen once, and one that was twice
    x = points(1, 150, dim) + latent[:, None]
    values, labels = standardised(x)[1:], latent.numpy()[1:]
    near = chebyshev(values)
    terms = []
    for row, label in zip(near, labels):
        same = (labels == label).sum()
        used = min(k, same - 1)
        radius = np.sort(row[labels == label])[used - 1]
        terms.append(digamma(used) - digamma(same) - digamma((row < radius).sum() + 1))
    found = ross_information(latent, x, k=k, jitter=0)
    assert found == pytest.approx(digamma(149) + np.mean(terms), abs=1e-12)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("k", [1, 4, 149])
def test_entropy_is_its_definition(dim: int, k: int) -> None:
    x = points(0, 150, dim)
    radius = np.sort(chebyshev(x.numpy()))[:, k - 1]
    expected = digamma(150) - digamma(k) + dim * np.log(2 * radius).mean()
    assert kozachenko_leonenko_entropy(x, k=k) == pytest.approx(expected, abs=1e-12)


@given(SEEDS, st.floats(-0.95, 0.95), st.integers(1, 6))
def test_ksg_agrees_with_scikit_learn(seed: int, rho: float, k: int) -> None:
    x, y = gaussians(seed, 300, 1, rho)
    theirs = mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=k, random_state=0)
    # They replace negative estimates by 0, and their jitter is another one.
    assert max(0.0, ksg_information(x, y, k=k)) == pytest.approx(float(theirs[0]), abs=1e-6)


@given(SEEDS, st.integers(2, 12), st.integers(1, 6))
def test_ross_agrees_with_scikit_learn(seed: int, num_codes: int, k: int) -> None:
    latent, x = gao(seed, 300, num_codes)
    latent[0] = 100  # dropped
    theirs = mutual_info_classif(x[:, None].numpy(), latent.numpy(), n_neighbors=k, random_state=0)
    assert max(0.0, ross_information(latent, x, k=k)) == pytest.approx(float(theirs[0]), abs=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, -0.9])
@pytest.mark.parametrize("algorithm", [1, 2])
def test_ksg_finds_the_information_of_gaussians(rho: float, algorithm: Literal[1, 2]) -> None:
    found = ksg_information(*gaussians(0, 10_000, 1, rho), algorithm=algorithm)
    assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)


@pytest.mark.parametrize(("dim", "rho"), [(2, 0.5), (3, 0.6)])
def test_ksg_finds_the_information_of_vectors(dim: int, rho: float) -> None:
    found = ksg_information(*gaussians(0, 5_000, dim, rho))
    assert found == pytest.approx(-0.5 * dim * math.log(1 - rho**2), abs=0.05)


@pytest.mark.parametrize("num_codes", [2, 4, 8, 16, 24])
def test_ross_finds_the_information_of_gao_s_mixtures(num_codes: int) -> None:
    truth = math.log(num_codes) - (num_codes - 1) / num_codes * math.log(2)
    assert ross_information(*gao(0, 10_000, num_codes)) == pytest.approx(truth, abs=0.03)


def test_ross_of_disjoint_supports_is_the_entropy_of_the_code() -> None:
    latent = codes(0, 4_000, 5)
    x = 3 * latent[:, None] + torch.rand(4_000, 2)
    assert ross_information(latent, x) == pytest.approx(math.log(5), abs=0.01)
    assert ross_information(latent, latent) == pytest.approx(math.log(5), abs=0.01)  # by jitter


def test_entropies_of_uniform_and_gaussian_samples() -> None:
    square = torch.rand(20_000, 2, dtype=torch.float64)
    assert kozachenko_leonenko_entropy(square) == pytest.approx(0.0, abs=0.03)
    assert kozachenko_leonenko_entropy(square / 10) == pytest.approx(-2 * math.log(10), abs=0.03)
    gaussian = 0.5 * math.log(2 * math.pi * math.e)
    assert kozachenko_leonenko_entropy(points(0, 20_000, 1)) == pytest.approx(gaussian, abs=0.03)


def test_independent_samples_scatter_around_nothing_unclamped() -> None:
    found = [ksg_information(points(i, 300, 1), points(i + 100, 300, 1)) for i in range(20)]
    found += [ross_information(codes(i, 300, 3), points(i, 300, 1)) for i in range(20)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 0.02


@given(SEEDS, st.floats(1e-4, 1e4), st.floats(-100, 100))
def test_neither_order_nor_unit_nor_names_matter(seed: int, scale: float, shift: float) -> None:
    x, y = gaussians(seed, 200, 2, 0.8)
    latent = codes(seed, 200, 4)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    moved = -scale * x + shift
    expected = ksg_information(x, y)
    assert ksg_information(moved[order], y[order]) == pytest.approx(expected, abs=1e-6)
    assert ksg_information(y, x) == pytest.approx(expected, abs=1e-6)
    names = torch.tensor([5, -3, 100, 8])
    expected = ross_information(latent, y + latent[:, None])
    renamed = ross_information(names[latent][order], (scale * (y + latent[:, None]) + shift)[order])
    assert renamed == pytest.approx(expected, abs=1e-6)
    entropy = kozachenko_leonenko_entropy(x)
    assert kozachenko_leonenko_entropy(moved[order]) == pytest.approx(
        entropy + 2 * math.log(scale), abs=1e-6
    )


def test_equal_samples_need_jitter_and_it_is_the_same_each_time() -> None:
    x, y = (value.mul(2).round() for value in gaussians(0, 2_000, 1, 0.8))
    table = functional.contingency((x + 10).long().flatten(), (y + 10).long().flatten(), 20, 20)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = ross_information(x.long().flatten(), y)
    assert found == ross_information(x.long().flatten(), y)
    assert found != ross_information(x.long().flatten(), y, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert found == pytest.approx(float(functional.mutual_information(table)), abs=0.05)
    assert math.isfinite(ksg_information(x, y))
    with pytest.raises(ConfigurationError, match="continuous variable"):
        ksg_information(x, y, jitter=0)
    with pytest.raises(ConfigurationError, match="continuous variable"):
        ross_information(x.long().flatten(), y, jitter=0)
    with pytest.raises(ConfigurationError, match="continuous variable"):
        kozachenko_leonenko_entropy(x)


@pytest.mark.parametrize("value", [0.0, 0.1, 3e7])
def test_a_constant_column_adds_nothing(value: float) -> None:
    x, y = gaussians(0, 4_000, 1, 0.8)
    padded = torch.cat([x, torch.full_like(x, value)], 1)
    assert ksg_information(padded, y) == pytest.approx(ksg_information(x, y), abs=0.02)


def test_many_samples_fit_into_memory() -> None:
    """All pairs of 100 000 samples would be 80 GB; the process grows by less than one of them."""
    x, y = gaussians(0, 100_000, 1, 0.75)
    latent = (x[:, 0] > 0).long()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    truth = -0.5 * math.log(1 - 0.75**2)
    assert ksg_information(x, y) == pytest.approx(truth, abs=0.01)
    assert ross_information(latent, y) < math.log(2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


GOOD = torch.arange(20.0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ksg_information(GOOD, GOOD[1:]), ShapeError, "got 20 and 19"),
        (lambda: ksg_information(GOOD, GOOD.view(2, 2, 5)), ShapeError, r"y of shape \[2, 2, 5\]"),
        (lambda: ksg_information(GOOD[:0], GOOD[:0]), ShapeError, r"x of shape \[0\]"),
        (lambda: ksg_information(GOOD, GOOD, k=20), ConfigurationError, "1 <= k <= 19"),
        (lambda: ksg_information(GOOD, GOOD, k=0), ConfigurationError, "got k = 0"),
        (lambda: ksg_information(GOOD / 0, GOOD), NonFiniteError, "finite x"),
        (lambda: ksg_information(GOOD, GOOD, algorithm=3), ConfigurationError, "algorithm 1 or 2"),
        (lambda: ksg_information(GOOD, GOOD, jitter=-1), ConfigurationError, "jitter"),
        (lambda: ross_information(GOOD, GOOD), ConfigurationError, "integer codes"),
        (lambda: ross_information(GOOD.long()[:, None], GOOD), ShapeError, r"codes \[N\]"),
        (lambda: ross_information(GOOD.long(), GOOD), ConfigurationError, "seen twice"),
        (lambda: ross_information(GOOD.long() // 5, GOOD, k=0), ConfigurationError, "k = 0"),
        (lambda: ross_information(GOOD.long() // 5, GOOD[1:]), ShapeError, "got 20 and 19"),
        (lambda: kozachenko_leonenko_entropy(GOOD, k=20), ConfigurationError, "1 <= k <= 19"),
        (lambda: kozachenko_leonenko_entropy(GOOD.log()), NonFiniteError, "finite x"),
    ],
)
def test_bad_samples_are_refused(
    call: Callable[[], float], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        call()


@given(SEEDS, st.integers(1, 12), st.integers(1, 40))
def test_particle_entropy_is_the_log_of_the_mean_distance(seed: int, k: int, chunk: int) -> None:
    x = points(seed, 30, 3)
    distances, _ = cKDTree(x.numpy()).query(x.numpy(), k=k + 1)
    expected = np.log1p(distances[:, 1:].mean(1))
    found = particle_entropy(x, k=k, chunk_size=chunk)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("margins", ["rank", "normal"])
def test_heavy_tails_ask_for_other_margins(margins: Literal["rank", "normal"]) -> None:
    """Student's t of one degree of freedom, one by one dimension: .2242 nats."""
    rng = np.random.default_rng(0)
    chi = np.sqrt(rng.chisquare(1, (5000, 1)))
    x, y = torch.from_numpy(rng.standard_normal((5000, 2)) / chi).unbind(-1)
    assert ksg_information(x, y, margins=margins) == pytest.approx(0.2242, abs=0.03)
    assert ksg_information(x, y) < 0.2
    x, y = x.sign() * x.abs() ** 5, y.exp().clamp_max(1e100)  # ranks stay
    assert ksg_information(x, y, margins=margins) == pytest.approx(0.2242, abs=0.03)
    codes = (x > 0).long()
    assert ross_information(codes, x, margins=margins) == pytest.approx(math.log(2), abs=0.03)


def test_other_margins_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected margins of .*'normal'"):
        ksg_information(torch.randn(50), torch.randn(50), margins="uniform")


def test_duplicates_of_a_particle_are_its_neighbours_at_no_distance() -> None:
    x = points(0, 10, 4, torch.float32).repeat(3, 1).requires_grad_()
    found = particle_entropy(x, k=2)
    assert (found == 0).all()
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_far_particles_pay_more() -> None:
    x = points(0, 200, 2)
    found = particle_entropy(torch.cat([x, x.new_tensor([[30.0, 30.0]])]))
    assert int(found.argmax()) == 200


@pytest.mark.parametrize(
    ("features", "options", "error", "match"),
    [
        (torch.zeros(5), {}, ShapeError, r"expected features \[N, D\]"),
        (torch.zeros(2, 5, 3), {}, ShapeError, "flatten"),
        (torch.zeros(12, 3), {"k": 12}, ConfigurationError, "1 <= k <= 11"),
        (torch.zeros(12, 3), {"k": 0}, ConfigurationError, "got k = 0"),
        (torch.zeros(0, 3), {"k": 1}, ConfigurationError, "1 <= k <= 0"),
        (torch.full((20, 3), torch.nan), {}, NonFiniteError, "finite features"),
        (torch.zeros(20, 3), {"chunk_size": 0}, ConfigurationError, "positive chunk_size"),
    ],
)
def test_bad_particles_are_refused(
    features: torch.Tensor, options: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        particle_entropy(features, **options)
