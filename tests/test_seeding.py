from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.seeding import (
    derived_seed,
    generator_state,
    isolated_generators,
    seed_generators,
    set_generator_state,
)
from modereg.storage import load_state, save_state


def draw() -> tuple[float, float, float]:
    """Draw from each of the global generators."""
    return float(torch.rand(())), float(np.random.normal()), random.gauss(0, 1)


def test_seeds_of_all_generators_depend_on_every_number() -> None:
    numbers = ((0,), (1,), (0, 1), (1, 1), (0, 2, 1), (0, 1, 2), (1, 2, 3), (12345,))
    seeds = [derived_seed(*chosen) for chosen in numbers]
    assert seeds == [derived_seed(*chosen) for chosen in numbers]
    assert all(0 <= seed < 2**31 for seed in seeds)
    draws = []
    for seed in seeds:
        seed_generators(seed)
        draws.append(draw())
    for column in zip(*draws):
        assert len(set(column)) == len(numbers)


@given(st.integers(0, 2**40), st.integers(0, 2**31))
def test_a_derived_seed_is_one_for_every_generator(seed: int, part: int) -> None:
    found = derived_seed(seed, part)
    assert 0 <= found < 2**31
    seed_generators(found)


@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_state_is_taken_up_even_from_a_file(before: int, tmp_path: Path) -> None:
    """Also in the middle of a pair of Gaussian numbers, which numpy and random draw by twos."""
    seed_generators(3)
    for _ in range(before):
        draw()
    save_state(tmp_path / "state.pt", generator_state())
    expected = [draw() for _ in range(3)]
    seed_generators(4)
    set_generator_state(load_state(tmp_path / "state.pt"))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("seed", [None, 5])
def test_what_is_drawn_within_leaves_no_trace(seed: int | None) -> None:
    seed_generators(1)
    expected = [draw(), draw()]
    seed_generators(1)
    found = [draw()]
    inside = []

    def fail() -> None:
        with isolated_generators(seed):
            inside.append(draw())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    found.append(draw())
    assert found == expected
    assert (inside[0] == expected[1]) == (seed is None)
    with isolated_generators(5):
        assert (inside[0] == draw()) == (seed == 5)
