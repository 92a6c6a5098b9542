from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modereg import functional
from modereg.discovery.worth import (
    ENTROPY_LOST,
    KEPT,
    RARE,
    SELDOM,
    SIGNIFICANT,
    code_shares,
    worth_steering,
)

SLACK = 2e-6
"""What rounding may cost."""

Judged = tuple[Tensor, Tensor, int]
"""Outcomes of each code's episodes ``[K, K + 1]``, of the base's ``[K + 1]``, episodes of all."""


@st.composite
def judged(draw: st.DrawFn) -> Judged:
    num_codes = draw(st.integers(1, 6))
    weights = draw(st.lists(st.integers(0, 20), min_size=num_codes + 1, max_size=num_codes + 1))
    rows = [
        draw(st.lists(st.integers(0, 20), min_size=num_codes + 1, max_size=num_codes + 1))
        for _ in range(num_codes)
    ]
    table = torch.tensor([[*weights], *rows], dtype=torch.float64)
    table[table.sum(1) == 0, -1] = 1.0  # what reaches no code at all
    table /= table.sum(1, keepdim=True)
    return table[1:], table[0], draw(st.integers(num_codes, 4000))


def figures(outcomes: Tensor) -> Tensor:
    """Success, and the entropy of the codes among it."""
    reached = outcomes[:-1]
    return torch.stack([reached.sum(), functional.normalized_entropy(reached, len(reached))])


def settled(table: Tensor, base: Tensor, episodes: int) -> tuple[Tensor, Tensor]:
    """What is worth it where each code was drawn equally often."""
    return worth_steering(table, base, torch.full((len(table),), episodes / len(table)))


def steered_of(table: Tensor, base: Tensor, episodes: int) -> Tensor:
    return settled(table, base, episodes)[0]


def whole(steered: Tensor, table: Tensor, base: Tensor, weights: Tensor | None = None) -> Tensor:
    """Figures of all codes together, those that are not steered being the base."""
    weights = torch.ones_like(base[:-1]) if weights is None else weights
    return figures(weights @ torch.where(steered[:, None], table, base) / weights.sum())


def least(base: Tensor, episodes: int) -> Tensor:
    """What figures may be at least: the base's, less one standard error of its success."""
    success = float(base[:-1].sum())
    error = max(success * (1 - success), 0.0) ** 0.5 / episodes**0.5
    return figures(base) - torch.tensor([error, ENTROPY_LOST]) - SLACK


def test_a_code_of_few_episodes_must_show_more() -> None:
    """The base reaches it in 0.4, with an error of 0.155 over 10 episodes, 0.015 over 1000."""
    base = torch.tensor([0.4, 0.4, 0.2])
    table = torch.tensor([[0.55, 0.25, 0.2], [0.25, 0.55, 0.2]])
    often, seldom = torch.tensor([1000, 1000]), torch.tensor([1000, 10])
    assert worth_steering(table, base, often)[0].tolist() == [True, True]
    assert worth_steering(table, base, seldom)[0].tolist() == [True, False]


@given(judged())
def test_what_is_no_better_than_the_bases_own_noise_is_never_steered(case: Judged) -> None:
    table, base, episodes = case
    steered = steered_of(table, base, episodes)
    assert steered.dtype == torch.bool
    assert not bool((steered & (table.diagonal() <= base[:-1])).any())
    chance = base[:-1]
    error = SIGNIFICANT * (chance * (1 - chance) * len(table) / episodes).sqrt()
    assert not bool((steered & (table.diagonal() < chance + error - 1e-9)).any())


@given(judged())
def test_the_whole_loses_neither_success_nor_modes(case: Judged) -> None:
    """But for what it costs that rare behaviours are kept."""
    table, base, episodes = case
    steered, shares = settled(table, base, episodes)
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares.min()) > 0.0
    if bool(steered.any()):
        below = (steered & (table[:, :-1].sum(1) < base[:-1].sum())).nonzero()[:, 0].tolist()
        floor, found = least(base, episodes), []
        for number in range(len(below) + 1):
            for seldom in combinations(below, number):
                weights = torch.ones_like(base[:-1])
                weights[list(seldom)] = SELDOM
                found.append(bool((whole(steered, table, base, weights) >= floor).all()))
        assert any(found)


def test_a_rare_behaviour_is_kept_by_what_costs_least() -> None:
    """Code 2 commands nothing and plays the base; code 1 stumbles into 2 oftener, and fails."""
    base = torch.tensor([0.9, 0.03, 0.03, 0.04])
    table = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.05, 0.4, 0.09, 0.46], [0.9, 0.03, 0.03, 0.04]])
    steered = torch.tensor([True, True, False])
    weights = torch.tensor([1.0, SELDOM, 1.0])
    shares = code_shares(table, base, steered, weights)
    assert float(shares[1]) < 0.1
    assert float(shares[2]) == pytest.approx(0.5, abs=0.03)
    table[2] = torch.tensor([0.3, 0.0, 0.5, 0.2])  # now it has a code that leads there, at a price
    shares = code_shares(table, base, torch.tensor([True] * 3), torch.tensor([1.0, 1.0, SELDOM]))
    assert 0.02 < float(shares[2]) < 0.1
    floor = float(base[:-1].sum())
    kept = code_shares(table, base, torch.tensor([True] * 3), weights.flip(0), floor)
    assert torch.equal(kept, weights.flip(0) / weights.sum())  # nothing more may be lost


@given(judged())
def test_nothing_is_given_up_without_need(case: Judged) -> None:
    table, base, episodes = case
    chance, hits = base[:-1], table.diagonal()
    error = SIGNIFICANT * (chance * (1 - chance) * len(table) / episodes).sqrt()
    steered, better = steered_of(table, base, episodes), hits > chance + error + 1e-9
    if bool((whole(better, table, base) >= least(base, episodes) + 2 * SLACK).all()):
        assert bool((steered | ~better).all())


@given(judged())
def test_codes_that_hit_in_every_episode_stay(case: Judged) -> None:
    _, base, episodes = case
    num_codes = len(base) - 1
    table = torch.eye(num_codes, num_codes + 1, dtype=base.dtype)
    steered = steered_of(table, base, episodes)
    chance = base[:-1]
    assert torch.equal(
        steered, 1 > chance + SIGNIFICANT * (chance * (1 - chance) * num_codes / episodes).sqrt()
    )


def test_where_all_succeed_rounding_costs_no_success() -> None:
    """Shares in single precision add up to the number below 1."""
    table, base = 0.99999994 * torch.eye(3, 4), torch.tensor([0.5, 0.3, 0.2, 0.0])
    assert float(table.mean(0).sum()) < 1.0
    assert steered_of(table, base, 120).tolist() == [True] * 3


def test_a_code_whose_steering_costs_success_is_drawn_seldom() -> None:
    """Code 2 is hit more often than by the base, and fails in most of its other episodes."""
    base = torch.tensor([0.85, 0.04, 0.01, 0.1])
    table = torch.tensor([[0.95, 0.0, 0.0, 0.05], [0.0, 0.95, 0.0, 0.05], [0.0, 0.0, 0.4, 0.6]])
    steered, shares = settled(table, base, 3000)
    assert steered.tolist() == [True] * 3
    torch.testing.assert_close(shares, torch.tensor([1.0, 1.0, SELDOM]) / 2.1)
    table[2] = torch.tensor([0.5, 0.0, 0.4, 0.1])
    steered, shares = settled(table, base, 3000)
    assert steered.tolist() == [True] * 3
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3))


def test_a_code_that_costs_success_is_drawn_seldom_though_the_others_make_up_for_it() -> None:
    base = torch.tensor([0.4, 0.4, 0.02, 0.18])
    table = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.2, 0.2, 0.3, 0.3]])
    steered, shares = settled(table, base, 3000)
    assert steered.tolist() == [True] * 3
    assert float(shares[0]) == pytest.approx(float(shares[1]))
    assert float(shares[2]) < 0.1


def test_half_a_standard_error_is_enough_to_draw_a_code_seldom_and_not_to_give_it_up() -> None:
    """At .9 of 900 episodes the error is .01; code 2 costs a third of what it fails more often."""
    base = torch.tensor([0.43, 0.43, 0.04, 0.1])  # what code 2 leads to is rare

    def at(failing: float) -> tuple[list[bool], Tensor]:
        table = torch.eye(3, 4) * 0.9 + torch.tensor([0.0, 0.0, 0.0, 0.1])
        table[2, 2], table[2, 3] = 0.9 - failing, 0.1 + failing
        steered, shares = settled(table, base, 900)
        return steered.tolist(), shares

    assert at(0.012)[0] == at(0.02)[0] == [True] * 3
    torch.testing.assert_close(at(0.012)[1], torch.full((3,), 1 / 3))
    few = at(0.02)[1]
    assert float(few[2]) < float(few[0]) == float(few[1])
    base = torch.tensor([0.3, 0.3, 0.3, 0.1])  # and now it is not, and its entropy counts
    torch.testing.assert_close(at(0.02)[1], torch.full((3,), 1 / 3))


def test_what_costs_too_much_even_then_is_given_back() -> None:
    """All three fail more often than the base, and code 0, which hits most, most of all."""
    base = torch.tensor([0.32, 0.32, 0.32, 0.04])
    table = torch.tensor([[0.7, 0.0, 0.0, 0.3], [0.1, 0.6, 0.25, 0.05], [0.05, 0.3, 0.6, 0.05]])
    steered, shares = settled(table, base, 3000)
    assert steered.tolist() == [False, True, True]
    assert float(shares[0]) > 1 / 3


def test_codes_that_all_lead_to_one_place_are_given_back() -> None:
    """Success is not lost, the modes are."""
    base = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0])
    table = torch.tensor([[0.1, 0.9, 0.0, 0.0, 0.0]]).repeat(4, 1)
    table[0] = torch.tensor([0.4, 0.6, 0.0, 0.0, 0.0])
    kept = steered_of(table, base, 4000)
    assert kept.tolist() == [False, True, False, False]  # the one that leads to its own place
    assert float(whole(kept, table, base)[1]) > 1.0 - ENTROPY_LOST


@pytest.mark.parametrize(("hits", "episodes", "steered"), [(0.6, 40, False), (0.6, 600, True)])
def test_what_few_episodes_say_may_be_luck(hits: float, episodes: int, steered: bool) -> None:
    base, table = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]])
    assert steered_of(table, base, episodes).tolist() == [steered] * 2
    assert float(table[0, 0]) == pytest.approx(hits)


@given(judged())
def test_all_codes_are_drawn_and_equally_often_where_nothing_is_thinned_out(case: Judged) -> None:
    table, base, _ = case
    steered = table.diagonal() > base[:-1]
    shares = code_shares(table, base, steered)
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares.min()) > 0.0
    equal = torch.full_like(shares, 1 / len(shares))
    before, after = (beyond(each, table, base, steered) for each in (equal, shares))
    if before >= 0.0:
        torch.testing.assert_close(shares, equal)
    assert float(after) >= float(before) - 1e-9


def beyond(shares: Tensor, table: Tensor, base: Tensor, steered: Tensor) -> Tensor:
    """What the rarest behaviour has beyond what it should keep, 1 if the base shows none."""
    reached = (shares @ torch.where(steered[:, None], table, base))[:-1]
    shown = base[:-1] / base[:-1].sum().clamp_min(1e-12)
    kept = shown >= RARE
    if not bool(kept.any()):
        return torch.ones(())
    rest = reached / reached.sum().clamp_min(1e-12) - shown.clamp_max(KEPT)
    return rest[kept].min() + 2e-6


def test_a_rare_behaviour_that_nothing_commands_keeps_its_place() -> None:
    """Four codes command; the base, in two of six codes, reaches the others in .024 each."""
    base = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.024, 0.024, 0.152])
    table = torch.eye(6, 7)
    steered = torch.tensor([True] * 4 + [False] * 2)
    equal = torch.full((6,), 1 / 6)
    assert float(beyond(equal, table, base, steered)) < KEPT / 2 - KEPT
    shares = code_shares(table, base, steered)
    assert -0.008 < float(beyond(shares, table, base, steered)) < 0.0
    assert float(shares[4]) == pytest.approx(float(shares[5]))
    assert float(shares[:4].std()) == pytest.approx(0.0)
    assert 0.48 < float(shares[4:].sum()) <= 0.5
    table[4, 4:], table[5, 4:] = torch.tensor([0.1, 0.1, 0.8]), torch.tensor([0.1, 0.1, 0.8])
    steered[:] = True
    assert float(beyond(code_shares(table, base, steered), table, base, steered)) >= 0.0


def test_the_base_takes_no_more_than_half_of_the_episodes() -> None:
    """What it shows in .014 could be kept by hardly steering at all."""
    base = torch.tensor([0.5, 0.386, 0.014, 0.1])
    shares = code_shares(torch.eye(3, 4), base, torch.tensor([True, True, False]))
    assert 0.45 < float(shares[2]) <= 0.5


def test_a_steered_code_that_is_hit_seldom_is_drawn_more_often() -> None:
    table = torch.eye(3, 4)
    table[2] = torch.tensor([0.47, 0.5, 0.03, 0.0])
    base = torch.tensor([0.5, 0.48, 0.014, 0.006])
    shares = code_shares(table, base, torch.ones(3, dtype=torch.bool))
    assert float(shares[2]) > 0.4
    every = torch.ones(3, dtype=torch.bool)
    assert float(beyond(shares, table, base, every)) > float(
        beyond(base.new_full((3,), 1 / 3), table, base, every)
    )
