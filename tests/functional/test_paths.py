"""Paths read at equal distances instead of equal times."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.functional import along_path


def path_at(times: torch.Tensor) -> torch.Tensor:
    """Return a path with a corner, gone at some times in [0, 2], ``[*B, T * 2]``."""
    return torch.stack([times.clamp(max=1.0), (times - 1.0).clamp(min=0.0)], -1).flatten(-2)


def test_speed_does_not_count_and_direction_does() -> None:
    even = torch.linspace(0, 2, 41)
    slow_then_fast = 2 * torch.linspace(0, 1, 41) ** 2
    waits = torch.cat([torch.zeros(10), torch.linspace(0, 2, 31)])
    first = along_path(path_at(even), 2)
    torch.testing.assert_close(first, path_at(even))
    for times in (slow_then_fast, waits):
        assert (along_path(path_at(times), 2) - first).abs().max() < 0.1
    other = path_at(even).unflatten(-1, (-1, 2)) * torch.tensor([1.0, -1.0])
    assert (along_path(other.flatten(-2), 2) - first).abs().max() > 0.9


@given(seed=st.integers(0, 10_000), length=st.integers(1, 12), dim=st.integers(1, 4))
def test_ends_stay_and_points_are_equally_far_apart(seed: int, length: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(3, length, 1, generator=generator, dtype=torch.float64)
    direction = torch.randn(3, 1, dim, generator=generator, dtype=torch.float64)
    points = (steps.cumsum(1) * direction).flatten(1)  # along a straight line
    found = along_path(points, dim).unflatten(-1, (-1, dim))
    assert found.shape == (3, length, dim)
    torch.testing.assert_close(found[:, 0], points[:, :dim])
    torch.testing.assert_close(found[:, -1], points[:, -dim:])
    pieces = (found[:, 1:] - found[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(pieces, pieces[:, :1].expand_as(pieces), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 3, 6)])
def test_batches_of_any_shape_and_a_path_that_stands_still(shape: tuple[int, ...]) -> None:
    still = torch.ones(shape)
    torch.testing.assert_close(along_path(still, 2), still)
