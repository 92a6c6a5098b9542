"""Which disc a cube lies on, and what it pays."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg_integrations.maniskill.discs.geometry import (
    CUBE_HALF_SIZE,
    CUBE_START,
    DISC_RADIUS,
    DISCS,
    MODE_NAMES,
    START_NOISE,
    disc_pay,
    placed_on,
)


@given(st.integers(0, 3), st.floats(0, 2 * math.pi), st.floats(0, 0.06), st.floats(0.018, 0.06))
def test_a_cube_lies_on_a_disc_within_its_radius_and_on_the_table(
    mode: int, angle: float, distance: float, height: float
) -> None:
    if abs(distance - DISC_RADIUS) < 1e-5 or abs(height - CUBE_HALF_SIZE - 0.005) < 1e-5:
        return
    x, y = DISCS[mode]
    cube = torch.tensor([x + distance * math.cos(angle), y + distance * math.sin(angle), height])
    on = distance < DISC_RADIUS and height < CUBE_HALF_SIZE + 0.005
    assert int(placed_on(cube)) == (mode if on else -1)


def test_it_works_on_batches_and_the_start_is_on_no_disc() -> None:
    cubes = torch.tensor([[[*centre, 0.02], [*CUBE_START, 0.02]] for centre in DISCS])
    assert placed_on(cubes).tolist() == [[0, -1], [1, -1], [2, -1], [3, -1]]
    away = torch.tensor(DISCS) - torch.tensor(CUBE_START)
    assert away.norm(dim=-1).min() > DISC_RADIUS + 2 * START_NOISE + 0.05


def test_names_say_where_the_discs_are() -> None:
    for name, (x, y) in zip(MODE_NAMES, DISCS, strict=True):
        assert name.startswith("far") == (x > CUBE_START[0])
        assert name.endswith("left") == (y > 0)


def test_pay_is_equally_spaced() -> None:
    torch.testing.assert_close(disc_pay(0.3), torch.tensor([1.3, 1.1, 0.9, 0.7]))
    assert disc_pay(0).tolist() == [1.0] * 4
