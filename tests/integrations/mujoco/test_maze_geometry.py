from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modereg_integrations.mujoco.maze_geometry import (
    GAP_HALF_WIDTH,
    GAPS,
    GOAL,
    GOAL_RADIUS,
    HALF_HEIGHT,
    HALF_WIDTH,
    MODE_NAMES,
    NUM_MODES,
    RADIUS,
    ROWS_Y,
    START,
    gaps_of_modes,
    mark_gaps,
    modes_of_gaps,
    reaches_goal,
    wall_boxes,
)


def is_in_wall(x: float, y: float) -> bool:
    return any(abs(x - cx) < w and abs(y - cy) < h for cx, cy, w, h in wall_boxes())


def test_modes_and_gaps_are_each_others_inverse() -> None:
    modes = np.arange(NUM_MODES)
    assert (modes_of_gaps(gaps_of_modes(modes)) == modes).all()
    assert len({tuple(gaps) for gaps in gaps_of_modes(modes).tolist()}) == 6
    assert MODE_NAMES[int(modes_of_gaps(np.array([1, 0])))] == "R-L"


@given(st.integers(0, 1), st.floats(-HALF_WIDTH, HALF_WIDTH))
def test_walls_are_open_at_their_gaps_and_nowhere_else(row: int, x: float) -> None:
    distance = min(abs(x - centre) for centre in GAPS[row])
    if abs(distance - GAP_HALF_WIDTH) > 1e-6:
        assert is_in_wall(x, ROWS_Y[row]) == (distance > GAP_HALF_WIDTH)


def test_the_field_is_closed_and_the_ball_fits() -> None:
    for share in np.linspace(-0.99, 0.99, 41):
        for side in (-1, 1):
            assert is_in_wall(side * (HALF_WIDTH + 0.01), share * HALF_HEIGHT)
            assert is_in_wall(share * HALF_WIDTH, side * (HALF_HEIGHT + 0.01))
    assert GAP_HALF_WIDTH > RADIUS
    assert not is_in_wall(*START)
    assert not is_in_wall(*GOAL)


@given(
    st.lists(st.tuples(st.floats(-0.8, 0.8), st.floats(-0.7, 0.7)), min_size=1, max_size=12),
)
def test_the_first_crossing_of_each_wall_counts(path: list[tuple[float, float]]) -> None:
    gaps = np.full((1, 2), -1)
    for position in path:
        gaps = mark_gaps(gaps, np.array([position]))
    for row, y in enumerate(ROWS_Y):
        crossings = [x for x, height in path if height > y]
        if not crossings:
            assert gaps[0, row] == -1
        else:
            distances = [abs(crossings[0] - centre) for centre in GAPS[row]]
            assert distances[gaps[0, row]] == pytest.approx(min(distances))
    decided = (gaps >= 0).all()
    assert (modes_of_gaps(gaps) >= 0).all() == decided


def test_the_goal_is_a_disc() -> None:
    angles = np.linspace(0, 2 * np.pi, 9)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    assert reaches_goal(GOAL + 0.99 * GOAL_RADIUS * circle).all()
    assert not reaches_goal(GOAL + 1.01 * GOAL_RADIUS * circle).any()
