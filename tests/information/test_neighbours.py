"""Nearest-neighbour estimates against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.information import particle_entropy

SEEDS = st.integers(0, 10_000)


def points(seed: int, size: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dim, generator=generator, dtype=dtype)


@given(SEEDS, st.integers(1, 12), st.integers(1, 40))
def test_particle_entropy_is_the_log_of_the_mean_distance(seed: int, k: int, chunk: int) -> None:
    x = points(seed, 30, 3)
    distances, _ = cKDTree(x.numpy()).query(x.numpy(), k=k + 1)
    expected = np.log1p(distances[:, 1:].mean(1))
    found = particle_entropy(x, k=k, chunk_size=chunk)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(SEEDS)
def test_particles_seek_in_the_whole_reference(seed: int) -> None:
    x, reference = points(seed, 20, 2), points(seed + 1, 50, 2)
    distances, _ = cKDTree(reference.numpy()).query(x.numpy(), k=5)
    found = particle_entropy(x, k=5, reference=reference, chunk_size=7)
    np.testing.assert_allclose(found, np.log1p(distances.mean(1)), rtol=1e-9)
    assert (particle_entropy(reference, k=1, reference=reference) == 0).all()


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
        (torch.zeros(20, 3), {"reference": torch.zeros(20, 2)}, ShapeError, "of one D"),
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
