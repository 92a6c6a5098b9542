"""Shaping, the clipped objective and the KL to N(0, I) against closed forms."""

from __future__ import annotations

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
