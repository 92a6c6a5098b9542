"""Ratios of continuous codes against torch.distributions, scipy, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from torch.distributions import Independent, Normal, kl_divergence

from modereg import functional
from modereg.functional import continuous

SEEDS = st.integers(0, 10_000)
DIMS = st.integers(2, 40)
KAPPAS = st.floats(0.0, 1e4)


def units(*size: int, seed: int = 0) -> torch.Tensor:
    """Return unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(*size, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(draws, dim=-1)


def gaussian(seed: int) -> tuple[torch.Tensor, ...]:
    """Return means, log standard deviations and codes, ``[7, 3]`` float64."""
    generator = torch.Generator().manual_seed(seed)
    loc, log_std, latent = torch.randn(3, 7, 3, generator=generator, dtype=torch.float64)
    return loc, log_std, latent


def diagonal(loc: torch.Tensor, log_std: torch.Tensor) -> Independent:
    return Independent(Normal(loc, log_std.exp()), 1)


# --- the Gaussian


@given(SEEDS)
def test_gaussian_ratio_is_the_difference_of_two_log_densities(seed: int) -> None:
    loc, log_std, latent = gaussian(seed)
    zero = torch.zeros_like(loc)
    expected = diagonal(loc, log_std).log_prob(latent) - diagonal(zero, zero).log_prob(latent)
    ratio = functional.gaussian_log_ratio(loc, log_std, latent)
    torch.testing.assert_close(ratio, expected)
    single = functional.gaussian_log_ratio(loc.float(), log_std.float(), latent.float())
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gaussian_that_is_the_prior_pays_exactly_nothing(dtype: torch.dtype) -> None:
    latent = 10 * torch.randn(4, 5, 3, dtype=dtype)
    ratio = functional.gaussian_log_ratio(torch.zeros(3), torch.zeros(3), latent)
    assert ratio.shape == (4, 5)
    assert bool((ratio == 0).all())


def channel(noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states, codes and weights that integrate any quadratic of s = z + n exactly."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(3))
    weights = weights / weights.sum()
    latent = nodes.repeat_interleave(3).unsqueeze(-1).expand(9, len(noise))
    states = latent + nodes.repeat(3).unsqueeze(-1) * noise
    return states, latent, weights.repeat_interleave(3) * weights.repeat(3)


@given(st.lists(st.floats(0.05, 5.0), min_size=1, max_size=4), SEEDS)
def test_linear_gaussian_channels(noises: list[float], seed: int) -> None:
    noise = torch.tensor(noises, dtype=torch.float64)
    states, latent, weights = channel(noise)
    snr = 1 / noise**2
    loc, log_std = states * snr / (1 + snr), (-0.5 * snr.log1p()).expand_as(states)
    bound = (weights * functional.gaussian_log_ratio(loc, log_std, latent)).sum()
    information = 0.5 * snr.log1p().sum()
    torch.testing.assert_close(bound, information)
    torch.manual_seed(seed)
    slope, offset, other = torch.randn(3, len(noise), dtype=torch.float64)
    q_loc, q_log_std = slope * states + offset, other.expand_as(states)
    worse = (weights * functional.gaussian_log_ratio(q_loc, q_log_std, latent)).sum()
    kl = kl_divergence(diagonal(loc, log_std), diagonal(q_loc, q_log_std))
    torch.testing.assert_close(information - worse, (weights * kl).sum())


@given(st.floats(-1e6, 1e6), st.floats(-9.0, -0.1), st.floats(0.1, 9.0))
def test_soft_range_is_inside_and_starts_as_the_identity(x: float, low: float, high: float) -> None:
    raw = torch.tensor([x, 0.0, 1e-6, -1e-6], dtype=torch.float64, requires_grad=True)
    value = functional.soft_range(raw, low, high)
    assert low <= float(value[0].detach()) <= high
    assert float(value[1].detach()) == 0.0
    (slope,) = torch.autograd.grad(value.sum(), raw)
    assert bool(torch.isfinite(slope).all())
    torch.testing.assert_close(slope[1:], torch.ones(3, dtype=torch.float64))
    assert float(value[0].detach()) * x >= 0.0
    assert functional.soft_range(raw.float(), low, high).dtype == torch.float32


# --- the sphere


@given(st.floats(-2.0, 2.0))
def test_soft_range_is_a_hyperbolic_tangent_to_each_side(x: float) -> None:
    expected = 0.5 * math.tanh(x / 0.5) if x >= 0 else -3 * math.tanh(x / -3)
    assert float(functional.soft_range(torch.tensor(x).double(), -3, 0.5)) == pytest.approx(
        expected
    )


def _log_ratio(loc: torch.Tensor, kappa: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    natural = kappa.unsqueeze(-1) * loc
    return functional.von_mises_fisher_natural_log_ratio(natural, latent)


def _log_normalizer(kappa: torch.Tensor, dim: int) -> torch.Tensor:
    return functional.von_mises_fisher_peak(kappa, dim) - kappa - functional.sphere_log_area(dim)


def test_areas_of_spheres() -> None:
    areas = [2 * math.pi, 4 * math.pi, 2 * math.pi**2, 8 * math.pi**2 / 3]
    for dim, area in enumerate(areas, 2):
        assert functional.sphere_log_area(dim) == pytest.approx(math.log(area))
    assert functional.sphere_log_area(18) > 0 > functional.sphere_log_area(19)


@pytest.mark.parametrize("dim", [2, 3, 5, 8, 31, 64])
@pytest.mark.parametrize("kappa", [1e-3, 0.3, 3.0, 50.0, 1e3, 1e4])
def test_log_densities_are_scipys(dim: int, kappa: float) -> None:
    loc, latent = units(dim), units(6, dim, seed=1)
    concentration = torch.full((6,), kappa, dtype=torch.float64)
    ratio = _log_ratio(loc.expand(6, -1), concentration, latent)
    expected = stats.vonmises_fisher(loc.numpy(), kappa).logpdf(latent.numpy())
    log_density = ratio - functional.sphere_log_area(dim)
    np.testing.assert_allclose(log_density.numpy(), expected, rtol=1e-9, atol=1e-9)


@given(KAPPAS)
def test_the_circle_and_the_sphere_have_closed_forms(value: float) -> None:
    kappa = torch.tensor(value, dtype=torch.float64)
    circle = -math.log(2 * math.pi) - torch.special.i0e(kappa).log() - kappa
    torch.testing.assert_close(_log_normalizer(kappa, 2), circle, rtol=1e-10, atol=1e-10)
    sinh = kappa + torch.log1p(-torch.exp(-2 * kappa)) - math.log(2)  # log sinh
    sphere = kappa.log() - math.log(4 * math.pi) - sinh if value > 1e-3 else -math.log(4 * math.pi)
    torch.testing.assert_close(
        _log_normalizer(kappa, 3),
        torch.as_tensor(sphere, dtype=torch.float64),
        rtol=1e-10,
        atol=1e-6 if value <= 1e-3 else 1e-10,
    )


@given(DIMS, st.floats(0.0, 50.0))
def test_densities_integrate_to_one_and_their_mean_is_the_derivative(
    dim: int, value: float
) -> None:
    nodes, weights = special.roots_jacobi(120, (dim - 3) / 2, (dim - 3) / 2)
    ring = math.exp(functional.sphere_log_area(dim - 1)) if dim > 2 else 2.0
    kappa = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    log_normalizer = _log_normalizer(kappa, dim)
    density = ring * weights * np.exp(float(log_normalizer.detach()) + value * nodes)
    assert density.sum() == pytest.approx(1.0, abs=1e-9)
    (slope,) = torch.autograd.grad(log_normalizer, kappa)
    assert -float(slope) == pytest.approx((density * nodes).sum(), abs=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 4, 9, 31, 32, 33, 64])
def test_the_derivative_is_a_ratio_of_bessel_functions(dim: int) -> None:
    kappa = torch.logspace(-1, 4, 60, dtype=torch.float64, requires_grad=True)
    log_normalizer = _log_normalizer(kappa, dim)
    (slope,) = torch.autograd.grad(log_normalizer.sum(), kappa)
    above, below = (special.ive(order, kappa.detach().numpy()) for order in (dim / 2, dim / 2 - 1))
    fine = above > 1e-290
    assert fine.sum() > 30
    np.testing.assert_allclose(-slope.numpy()[fine], above[fine] / below[fine], rtol=1e-9)


@pytest.mark.parametrize("dim", [2, 7, 100, 2000])
def test_small_concentrations_follow_the_series(dim: int) -> None:
    kappa = torch.tensor([0.0, 1e-8, 1e-3, 0.1], dtype=torch.float64, requires_grad=True)
    excess = kappa - functional.von_mises_fisher_peak(kappa, dim)
    series = kappa**2 / (2 * dim) - kappa**4 / (4 * dim**2 * (dim + 2))
    torch.testing.assert_close(excess, series, rtol=1e-6, atol=1e-15)
    (slope,) = torch.autograd.grad(excess.sum(), kappa)
    torch.testing.assert_close(slope, kappa.detach() / dim, rtol=1e-2, atol=1e-15)


def test_the_polynomials_of_debye_are_published_ones() -> None:
    """The first are DLMF 10.41.10; each further one follows from the last by DLMF 10.41.9."""
    powers = continuous._debye_polynomials()
    found = [np.polynomial.Polynomial([u.get(n, 0.0) for n in range(max(u) + 1)]) for u in powers]
    assert len(found) == 8
    np.testing.assert_allclose(found[0].coef, np.array([0, 3, 0, -5]) / 24)
    np.testing.assert_allclose(found[1].coef, np.array([0, 0, 81, 0, -462, 0, 385]) / 1152)
    thirds = np.array([0, 0, 0, 30375, 0, -369603, 0, 765765, 0, -425425])
    np.testing.assert_allclose(found[2].coef, thirds / 414720)
    t = np.polynomial.Polynomial([0.0, 1.0])
    for u, following in itertools.pairwise(found):
        expected = t**2 * (1 - t**2) * u.deriv() / 2 + ((1 - 5 * t**2) * u).integ() / 8
        np.testing.assert_allclose(following.coef, expected.coef, rtol=1e-12, atol=1e-12)


@given(DIMS, SEEDS)
def test_no_concentration_pays_exactly_nothing(dim: int, seed: int) -> None:
    for dtype in (torch.float32, torch.float64):
        loc, latent = units(5, dim, seed=seed).to(dtype), units(5, dim, seed=seed + 1).to(dtype)
        kappa = torch.zeros(5, dtype=dtype, requires_grad=True)
        ratio = _log_ratio(loc, kappa, latent)
        assert ratio.dtype == dtype
        assert bool((ratio == 0).all())
        (slope,) = torch.autograd.grad(ratio.sum(), kappa)
        torch.testing.assert_close(slope, (loc * latent).sum(-1), rtol=1e-4, atol=1e-6)
        assert bool((functional.von_mises_fisher_peak(kappa.detach(), dim) == 0).all())


@given(DIMS, KAPPAS, SEEDS)
def test_ratios_stay_under_the_peak_and_reach_it(dim: int, value: float, seed: int) -> None:
    loc, latent = units(9, dim, seed=seed), units(9, dim, seed=seed + 1)
    kappa = torch.full((9,), value, dtype=torch.float64)
    peak = functional.von_mises_fisher_peak(kappa, dim)
    assert bool((peak >= 0).all())
    ratio = _log_ratio(loc, kappa, latent)
    assert bool((ratio <= peak + 1e-9).all())
    torch.testing.assert_close(_log_ratio(loc, kappa, loc), peak, rtol=1e-9, atol=1e-9)
    more = functional.von_mises_fisher_peak(kappa + 1.0, dim)
    assert bool((more > peak).all())


@given(DIMS, KAPPAS, SEEDS)
def test_rotations_change_nothing(dim: int, value: float, seed: int) -> None:
    loc, latent = units(6, dim, seed=seed), units(6, dim, seed=seed + 1)
    turn = torch.linalg.qr(units(dim, dim, seed=seed + 2))[0]
    kappa = torch.full((6,), value, dtype=torch.float64)
    torch.testing.assert_close(
        _log_ratio(loc @ turn, kappa, latent @ turn),
        _log_ratio(loc, kappa, latent),
        rtol=1e-9,
        atol=1e-8,
    )


@given(DIMS, KAPPAS, SEEDS)
def test_single_precision_agrees(dim: int, value: float, seed: int) -> None:
    loc, kappa = units(6, dim, seed=seed), torch.full((6,), value, dtype=torch.float64)
    near = torch.nn.functional.normalize(loc + 0.01 * units(6, dim, seed=seed + 1), dim=-1)
    for latent in (near, units(6, dim, seed=seed + 2)):
        ratio = _log_ratio(loc, kappa, latent)
        single = _log_ratio(loc.float(), kappa.float(), latent.float())
        torch.testing.assert_close(single, ratio.float(), rtol=1e-5, atol=2e-4)


@given(DIMS, SEEDS)
def test_single_precision_is_double_precision_rounded_once(dim: int, seed: int) -> None:
    loc, latent = units(50, dim, seed=seed).float(), units(50, dim, seed=seed + 1).float()
    kappa = 100 * torch.rand(50, generator=torch.Generator().manual_seed(seed))
    for function, inputs in (
        (functional.von_mises_fisher_peak, (kappa, dim)),
        (functional.von_mises_fisher_natural_log_ratio, (kappa.unsqueeze(-1) * loc, latent)),
    ):
        wide = (x.double() if isinstance(x, torch.Tensor) else x for x in inputs)
        assert torch.equal(function(*inputs), function(*wide).float())


@pytest.mark.parametrize("length", [0.0, 0.1, 5.0, 300.0])
@pytest.mark.parametrize("dim", [2, 3, 50])
def test_natural_parameters_have_smooth_gradients(dim: int, length: float) -> None:
    natural, latent = (length * units(4, dim)).requires_grad_(), units(4, dim, seed=1)
    assert torch.autograd.gradcheck(
        lambda eta: functional.von_mises_fisher_natural_log_ratio(eta, latent), natural
    )
    loc, kappa = units(4, dim), torch.full((4,), length, dtype=torch.float64)
    torch.testing.assert_close(
        functional.von_mises_fisher_natural_log_ratio(natural.detach(), latent),
        _log_ratio(loc, kappa, latent),
    )


def test_any_batch_also_an_empty_one() -> None:
    for size in ((), (0,), (0, 3), (2, 3)):
        kappa, loc = torch.rand(size), units(*size, 4).float()
        assert _log_ratio(loc, kappa, loc).shape == size
        assert _log_normalizer(kappa, 4).shape == size
        assert functional.von_mises_fisher_peak(kappa, 4).shape == size
        assert functional.gaussian_log_ratio(loc, loc, loc).shape == size


def test_gradients_of_single_samples() -> None:
    natural, latent = 3 * units(5, 4), units(5, 4, seed=1)
    ratio = functional.von_mises_fisher_natural_log_ratio
    single = torch.func.vmap(torch.func.grad(ratio))(natural, latent)
    natural.requires_grad_()
    (together,) = torch.autograd.grad(ratio(natural, latent).sum(), natural)
    torch.testing.assert_close(single, together)
