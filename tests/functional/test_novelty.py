"""Errors, differences and pooled moments against numpy and by their invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg import functional

SEEDS = st.integers(0, 10_000)


def test_the_error_is_the_mean_square_over_the_last_dimension() -> None:
    prediction = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[1.0, 4.0], [3.0, -4.0]])
    error = functional.distillation_error(prediction, target)
    assert error.tolist() == [2.0, 12.5]
    batched = functional.distillation_error(prediction.view(2, 1, 2), target.view(2, 1, 2))
    assert batched.tolist() == [[2.0], [12.5]]


@given(SEEDS, st.floats(0.0, 2.0))
def test_novel_d_lies_between_nothing_and_the_novelty(seed: int, alpha: float) -> None:
    after, before = torch.rand(2, 40, generator=torch.Generator().manual_seed(seed))
    paid = functional.novel_d(after, before, alpha)
    assert (paid >= 0).all()
    assert (paid <= after).all()
    np.testing.assert_allclose(paid, np.maximum(after.numpy() - alpha * before.numpy(), 0), 1e-6)


def test_novel_d_without_alpha_is_the_novelty() -> None:
    after, before = torch.rand(2, 8)
    assert torch.equal(functional.novel_d(after, before, 0.0), after)


@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([(), (3,)]))
def test_pooled_moments_are_those_of_all_samples(
    seed: int, sizes: list[int], shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = 5 + 3 * torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64)
    mean, variance = torch.full(shape, 9.0).double(), torch.full(shape, 9.0).double()
    count = torch.tensor(0)  # so what came before is of no meaning
    for part in samples.split(sizes):
        mean, variance, count = functional.pooled_moments(mean, variance, count, part)
    np.testing.assert_allclose(mean, samples.numpy().mean(0), rtol=1e-9)
    np.testing.assert_allclose(variance, samples.numpy().var(0), rtol=1e-9, atol=1e-12)
    assert int(count) == sum(sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooled_moments_keep_the_dtype(dtype: torch.dtype) -> None:
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    mean, variance, count = functional.pooled_moments(
        zero, one, torch.tensor(10**9), torch.full((4,), 2.0, dtype=dtype)
    )
    assert mean.dtype == variance.dtype == dtype
    assert count.dtype == torch.int64
    assert float(mean) == pytest.approx(8e-9)
