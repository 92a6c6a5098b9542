"""The terms of nearest-neighbour estimates against their equations written out with scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma

from modereg import functional

SEEDS = st.integers(0, 10_000)


def counts(seed: int, low: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 50, size=60)


@given(SEEDS, st.integers(1, 9))
def test_ksg_terms_are_equation_8_and_9(seed: int, k: int) -> None:
    x, y = counts(seed, k), counts(seed + 1, k)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    constant = digamma(k) + digamma(60)
    np.testing.assert_allclose(
        functional.ksg_terms(*tensors, k), constant - digamma(x + 1) - digamma(y + 1), atol=1e-12
    )
    np.testing.assert_allclose(
        functional.ksg_rectangle_terms(*tensors, k),
        constant - 1 / k - digamma(x) - digamma(y),
        atol=1e-12,
    )


@given(SEEDS)
def test_ross_terms_are_equation_2(seed: int) -> None:
    same, within, k = counts(seed, 8), counts(seed + 1, 8), counts(seed + 2, 1) % 7 + 1
    expected = digamma(60) - digamma(same) + digamma(k) - digamma(within)
    found = functional.ross_terms(*map(torch.from_numpy, (same, within, k)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(SEEDS, st.integers(1, 9), st.integers(1, 5))
def test_entropy_terms_are_equation_20(seed: int, k: int, dim: int) -> None:
    distances = np.random.default_rng(seed).random(60) + 1e-3
    expected = digamma(60) - digamma(k) + dim * np.log(2 * distances)
    found = functional.kozachenko_leonenko_terms(torch.from_numpy(distances), k, dim)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_particle_reward_is_the_log_of_one_plus_a_mean() -> None:
    distances = torch.tensor([[[0.0, 0.0], [1.0, 3.0]], [[1e-12, 1e-12], [1e4, 1e4]]])
    expected = [[0.0, math.log(3.0)], [1e-12, math.log(10001.0)]]
    for row, values in zip(functional.particle_reward(distances), expected):
        assert row.tolist() == pytest.approx(values, rel=1e-6)


def test_every_neighbour_among_strangers_is_no_information() -> None:
    """If the k-th neighbour of a code is the k-th of all, the code says log N / N_z; else less."""
    same, k = torch.full((40,), 10), torch.full((40,), 3)
    alone = functional.ross_terms(same, k, k).mean()
    mixed = functional.ross_terms(same, 4 * k, k).mean()
    assert float(alone) == pytest.approx(digamma(40) - digamma(10))
    assert float(mixed) == pytest.approx(digamma(40) - digamma(10) + digamma(3) - digamma(12))


def test_constants_are_made_where_the_samples_are() -> None:
    near, distances = torch.tensor([5, 6, 7]), torch.rand(3)
    with torch.device("meta"):  # what a device is not given for would be made there
        for terms in (
            functional.ksg_terms(near, near, 2),
            functional.ksg_rectangle_terms(near, near, 2),
            functional.ross_terms(near, near, near - 1),
            functional.kozachenko_leonenko_terms(distances, 2, 1),
        ):
            assert terms.isfinite().all()
