"""Coefficients, likelihoods and clips of denoising steps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from modereg import functional


def test_steps_of_a_flow_by_hand() -> None:
    """At t = .5 for .25 with sigma 2: drift v + 2 (t v - x), noise 2 sqrt(.5 * .25)."""
    keep, gain, std = functional.flow_step(torch.tensor([0.0, 0.5, 0.75, 1.0]), 2.0)
    x, v = 0.7, -1.3
    drawn = x + 0.25 * (v + 2.0 * (0.5 * v - x))
    assert float(keep[1] * x + gain[1] * v) == pytest.approx(drawn)
    assert float(std[1]) == pytest.approx(2.0 * math.sqrt(0.5 * 0.25))
    still = functional.flow_step(torch.tensor([0.0, 0.5, 0.75, 1.0]), 0.0)
    torch.testing.assert_close(torch.stack(still).T[1], torch.tensor([1.0, 0.25, 0.0]))


def test_a_flow_to_a_gaussian_keeps_its_variance_at_every_step() -> None:
    """Of data N(0, s^2) all is linear: the variance of x follows from the coefficients alone."""
    number, spread = 2000, 0.4
    times = torch.linspace(0.0, 1.0, number + 1, dtype=torch.float64)
    keep, gain, std = functional.flow_step(times, 1.2)
    variance = torch.tensor(1.0, dtype=torch.float64)
    for index, t in enumerate(times[:-1]):
        path = t.square() * spread**2 + (1 - t).square()
        assert float(variance / path) == pytest.approx(1.0, abs=0.02)
        slope = (t * spread**2 - (1 - t)) / path  # of the velocity, v = slope * x
        variance = (keep[index] + gain[index] * slope).square() * variance + std[index].square()
    assert float(variance) == pytest.approx(spread**2, rel=0.02)


def test_likelihood_and_divergence_of_a_step() -> None:
    sample, mean, other = torch.randn(3, 5, 4, 2).double()
    std = torch.rand(5).double() + 0.1
    one, two = (
        Independent(Normal(each, std[:, None, None].expand(5, 4, 2)), 2) for each in (mean, other)
    )
    found = functional.gaussian_step_log_prob(sample, mean, std)
    torch.testing.assert_close(found, one.log_prob(sample))
    found = functional.gaussian_step_kl(mean, other, std)
    torch.testing.assert_close(found, kl_divergence(one, two))


def test_the_clip_grows_along_the_chain() -> None:
    ranges = functional.denoising_clip(0.001, 0.01, 5)
    expected = [0.001 + 0.009 * math.expm1(3 * i / 4) / math.expm1(3) for i in range(5)]
    assert ranges.tolist() == pytest.approx(expected)
    assert functional.denoising_clip(0.001, 0.01, 1).tolist() == pytest.approx([0.01])
    assert functional.denoising_clip(0.2, 0.2, 3).tolist() == pytest.approx([0.2] * 3)


def test_each_ratio_may_have_a_clip_range_of_its_own() -> None:
    weights, gain = torch.tensor([1.5, 1.5, 0.4]).log(), torch.tensor([1.0, 2.0, -1.0])
    found = functional.clipped_surrogate(weights, gain, torch.tensor([0.1, 0.9, 0.2]))
    torch.testing.assert_close(found, torch.tensor([1.1, 3.0, -0.8]))
