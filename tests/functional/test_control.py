"""Shaping, the clipped objective and the KL to N(0, I) against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from modereg import functional

SEEDS = st.integers(0, 10_000)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.5, 1.0))
def test_discounted_shaping_telescopes(potential: list[float], gamma: float) -> None:
    generator = torch.Generator().manual_seed(len(potential))
    steps = torch.randint(1, 9, (len(potential) - 1,), generator=generator)
    values = torch.tensor(potential, dtype=torch.float64)
    pay = functional.shaping(values[1:], values[:-1], gamma, steps)
    elapsed = torch.cat([steps.new_zeros(1), steps.cumsum(0)]).double()
    total = (gamma ** elapsed[:-1] * pay).sum()
    expected = gamma ** elapsed[-1] * values[-1] - values[0]
    torch.testing.assert_close(
        total, expected, atol=1e-12 * max(map(abs, potential), default=1), rtol=1e-9
    )


def test_clipped_surrogate_by_cases() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.1, 2.0, 2.0])
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    expected = torch.tensor([0.5, -0.8, 2.2, 1.2, -2.0])
    torch.testing.assert_close(functional.clipped_surrogate(ratio.log(), advantage, 0.2), expected)


def test_matching_a_group_of_two_by_hand() -> None:
    """Returns 1 and 3 are -1 and 1 deviations from their mean: q is 1 / (1 + e^2) and the rest."""
    low = 1 / (1 + math.exp(2.0))
    scores = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 7.0]], dtype=torch.float64)
    returns = torch.tensor([[1.0, 3.0]] * 3)
    even = low * math.log(2 * low) + (1 - low) * math.log(2 * (1 - low))
    found = functional.group_matching(scores.requires_grad_(), returns, 1.0)
    expected = torch.tensor([even, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), scores)  # p - q
    torch.testing.assert_close(gradient[0], torch.tensor([0.5 - low, low - 0.5]).double())
    assert gradient[1:].abs().max() < 1e-9


@given(SEEDS, st.integers(2, 6), st.floats(0.1, 3.0))
def test_matching_asks_for_what_returns_say_whatever_their_unit(
    seed: int, number: int, beta: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, returns = torch.randn(2, 3, number, generator=generator, dtype=torch.float64)
    found = functional.group_matching(scores, returns, beta)
    assert (found >= -1e-12).all()
    for other in (10 * returns + 3, returns):
        shifted = functional.group_matching(scores + 4.0, other, beta)
        torch.testing.assert_close(shifted, found, atol=1e-9, rtol=1e-6)
    standard = (returns - returns.mean(-1, keepdim=True)) / returns.std(
        -1, correction=0, keepdim=True
    )
    at_best = functional.group_matching(beta * standard, returns, beta)
    torch.testing.assert_close(at_best, torch.zeros_like(at_best), atol=1e-9, rtol=0)


def test_no_gradient_of_matching_passes_through_the_returns() -> None:
    returns = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = functional.group_matching(torch.zeros(1, 2, requires_grad=True), returns, 1.0)
    loss.sum().backward()
    assert returns.grad is None


@given(SEEDS, st.integers(1, 2))
def test_kl_to_the_standard_normal(seed: int, event_dims: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(3, 4, 2, generator=generator)
    scale = 0.1 + torch.rand(3, 4, 2, generator=generator)
    expected = kl_divergence(
        Independent(Normal(loc, scale), event_dims),
        Independent(Normal(torch.zeros_like(loc), torch.ones_like(scale)), event_dims),
    )
    torch.testing.assert_close(functional.kl_standard_normal(loc, scale, event_dims), expected)


def test_the_last_dimension_is_the_event_unless_more_are_named() -> None:
    loc, scale = torch.randn(3, 4), torch.ones(3, 4)
    expected = loc.square().sum(-1) / 2
    torch.testing.assert_close(functional.kl_standard_normal(loc, scale), expected)


@pytest.mark.parametrize("number", [1, 2, 3])
@given(seed=st.integers(0, 1000))
def test_the_gradient_is_unbiased(number: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, dtype=torch.float64, requires_grad=True)
    worth = torch.randn(3, dtype=torch.float64)
    (expected,) = torch.autograd.grad(-(logits.softmax(-1) * worth).sum(), logits)
    average, probs = torch.zeros(3, dtype=torch.float64), logits.detach().softmax(-1)
    for codes in itertools.product(range(3), repeat=number):
        latent = torch.tensor(codes)
        log_prob = logits.log_softmax(-1)[latent]
        loss = functional.score_function_loss(log_prob, worth[latent])
        average += probs[latent].prod() * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(average, expected)


def test_the_baseline_takes_out_what_all_samples_share() -> None:
    logits = torch.randn(4, requires_grad=True)
    latent, reward = torch.randint(4, (5, 3)), torch.randn(5, 3)
    gradients = []
    for shift in (0.0, 100.0):
        log_prob = logits.log_softmax(-1)[latent]
        loss = functional.score_function_loss(log_prob, reward + shift)
        assert loss.shape == ()
        gradients.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_no_gradient_passes_through_the_reward_and_no_samples_cost_nothing() -> None:
    log_prob, reward = (torch.randn(6, requires_grad=True) for _ in range(2))
    functional.score_function_loss(log_prob, reward).backward()
    assert reward.grad is None
    assert log_prob.grad is not None
    assert float(functional.score_function_loss(torch.zeros(0), torch.zeros(0))) == 0.0


@given(st.integers(2, 6), st.integers(0, 1000))
def test_each_sample_is_held_against_the_mean_of_the_others(number: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_prob, reward = torch.randn(2, number, generator=generator, dtype=torch.float64)
    others = [torch.cat([reward[:i], reward[i + 1 :]]).mean() for i in range(number)]
    expected = -((reward - torch.stack(others)) * log_prob).mean()
    torch.testing.assert_close(functional.score_function_loss(log_prob, reward), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_the_loss_has_the_dtype_of_the_probabilities(dtype: torch.dtype) -> None:
    reward = torch.tensor([1, 0, 1]).to(dtype)
    loss = functional.score_function_loss(torch.zeros(3), reward)
    assert loss.dtype == torch.float32
