from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.discs import (
    CUBE_START,
    DISC_RADIUS,
    DISCS,
    placed_on,
)

pytestmark = pytest.mark.usefixtures("shared_simulations")
TASK = TASKS["ModeregDiscs-v1"]


@given(st.integers(0, 3), st.floats(0, 2 * math.pi), st.floats(0, 0.06), st.floats(0.018, 0.06))
def test_a_cube_lies_on_a_disc_within_its_radius_and_on_the_table(
    mode: int, angle: float, distance: float, height: float
) -> None:
    if abs(distance - DISC_RADIUS) < 1e-5 or abs(height - 0.025) < 1e-5:
        return
    x, y = DISCS[mode]
    cube = torch.tensor([x + distance * math.cos(angle), y + distance * math.sin(angle), height])
    on = distance < DISC_RADIUS and height < 0.025
    assert int(placed_on(cube)) == (mode if on else -1)


def test_it_works_on_batches_and_the_start_is_on_no_disc() -> None:
    cubes = torch.tensor([[[*centre, 0.02], [*CUBE_START, 0.02]] for centre in DISCS])
    assert placed_on(cubes).tolist() == [[0, -1], [1, -1], [2, -1], [3, -1]]
    away = torch.tensor(DISCS) - torch.tensor(CUBE_START)
    assert away.norm(dim=-1).min() > DISC_RADIUS + 0.07


def test_names_say_where_the_discs_are() -> None:
    for name, (x, y) in zip(TASK.mode_names, DISCS, strict=True):
        assert name.startswith("far") == (x > CUBE_START[0])
        assert name.endswith("left") == (y > 0)


def test_pay_is_equally_spaced() -> None:
    torch.testing.assert_close(TASK.pay(0.3), torch.tensor([1.3, 1.1, 0.9, 0.7]))
    assert TASK.pay(0).tolist() == [1.0] * 4


@pytest.mark.parametrize(("mode", "pay"), [(0, 1.3), (3, 0.7)])
def test_the_expert_places_the_cube_and_is_paid_for_its_disc(mode: int, pay: float) -> None:
    env = TASK.env(1, seed=mode, pay_spread=0.3, fast=True)
    td = env.reset()
    expert, total = TASK.expert(mode, td), 0.0
    assert td["observation"].shape == (1, 10)
    while not td["done"].any():
        td = env.step(td.copy().set("action", expert(td)[None]))["next"]
        total += float(td["reward"])
        torch.testing.assert_close(
            td["observation"][:, 7:], td["cube_position"] - td["observation"][:, 1:4]
        )
    assert (int(td["mode"]), round(total, 4)) == (mode, pay)
    assert (td["cube_position"][0, :2] - torch.tensor(DISCS[mode])).norm() < 0.03
    assert float(td["cube_position"][0, 2]) < 0.025
    env.close()
