"""Continuous priors: densities, samples, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal

from modereg.errors import ConfigurationError
from modereg.priors import NormalPrior, SphericalPrior, as_prior


def test_normal_agrees_with_torch() -> None:
    prior = as_prior(Independent(Normal(torch.zeros(3), torch.ones(3)), 1))
    reference = MultivariateNormal(torch.zeros(3), torch.eye(3))
    codes = prior.sample(torch.Size([6]))
    assert prior.num_codes is None
    torch.testing.assert_close(prior.log_prob(codes), reference.log_prob(codes))
    assert prior.entropy == pytest.approx(float(reference.entropy()))
    assert prior.features(codes) is codes
    exact = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    torch.testing.assert_close(prior.log_prob(codes.double()), exact.log_prob(codes.double()))


@given(st.integers(2, 40), st.integers(0, 1000))
def test_samples_of_a_sphere_are_unit_vectors_of_constant_density(dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    prior = SphericalPrior(dim)
    codes = prior.sample(torch.Size([20, 3]))
    assert codes.shape == (20, 3, dim)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(torch.linalg.vector_norm(codes, dim=-1), torch.ones(20, 3))
    torch.testing.assert_close(prior.log_prob(codes), torch.full((20, 3), -prior.entropy))
    assert prior.log_prob(codes.double()).dtype == torch.float64
    assert bool((prior.log_prob(1.01 * codes) == -math.inf).all())
    assert prior.features(codes) is codes
    assert prior.num_codes is None


def test_samples_of_a_sphere_are_uniform() -> None:
    codes = SphericalPrior(3).sample(torch.Size([20_000]))
    for i in range(3):  # Archimedes: each coordinate is uniform on [-1, 1]
        assert stats.kstest(codes[:, i].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    torch.testing.assert_close(codes.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.T.cov(), torch.eye(3) / 3, atol=0.02, rtol=0)
    assert SphericalPrior(3).entropy == pytest.approx(math.log(4 * math.pi))


def test_empty_and_single_batches() -> None:
    for prior in (NormalPrior(4), SphericalPrior(4)):
        assert prior.sample(torch.Size([])).shape == (4,)
        assert prior.sample(torch.Size([0, 3])).shape == (0, 3, 4)
        assert prior.log_prob(prior.sample(torch.Size([0, 3]))).shape == (0, 3)


def test_lengths_that_make_no_code_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="positive code length"):
        NormalPrior(0)
    with pytest.raises(ConfigurationError, match=r"at least 2, got 1.*CategoricalPrior\(2\)"):
        SphericalPrior(1)
