"""Gaps, digits and modes of the posts, and when stick and post touch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg_integrations.maniskill.posts.geometry import (
    POST_RADIUS,
    POSTS,
    START,
    STICK_RADIUS,
    Posts,
)

FEW, MANY = POSTS["ModeregPosts6-v1"], POSTS["ModeregPosts24-v1"]
LAYOUTS = pytest.mark.parametrize("posts", [FEW, MANY], ids=["6", "24"])
points = st.tuples(st.floats(-0.3, 0.2), st.floats(-0.3, 0.3))


@LAYOUTS
def test_modes_and_digits_are_inverse(posts: Posts) -> None:
    modes = torch.arange(posts.num_modes)
    digits = posts.digits(modes)
    assert torch.equal(posts.mode(digits), modes)
    assert (digits.amax(0) == torch.tensor(posts.rows)).all()
    assert not digits.amin(0).any()
    assert len(set(posts.mode_names)) == posts.num_modes


def test_names_and_digits_go_from_right_to_left() -> None:
    assert (FEW.num_modes, MANY.num_modes) == (6, 24)
    assert MANY.mode_names[0] == "R-R-RR"
    assert MANY.mode_names[23] == "L-L-LL"
    assert MANY.mode_names[int(MANY.mode(torch.tensor([1, 1, 2])))] == "L-M-L"


def test_the_mode_is_open_while_a_digit_is() -> None:
    digits = torch.tensor([[1, -1, -1], [1, 2, -1], [1, 2, 3], [-1, -1, -1]])
    assert MANY.mode(digits).tolist() == [-1, -1, 23, -1]


@LAYOUTS
def test_a_path_through_the_middle_of_gaps_shows_its_mode(posts: Posts) -> None:
    for mode in range(posts.num_modes):
        digits = posts.digits(torch.tensor(mode)).tolist()
        way = [START]
        for row, digit in enumerate(digits):
            x, y = float(posts.row_x[row]), float(posts.gap_y(row)[digit])
            way += [(x - 0.06, y), (x + 0.06, y)]
        before, after = torch.tensor(way[:-1]), torch.tensor(way[1:])
        crossed = posts.crossed(before, after)
        assert crossed.amax(0).tolist() == digits
        assert ((crossed >= 0).sum(0) == 1).all()
        assert posts.clearance(before, after).min() > 0.015


def test_going_back_over_a_row_is_no_crossing() -> None:
    there, here = torch.tensor([0.0, 0.3]), torch.tensor([-0.3, 0.3])
    assert MANY.crossed(there, here).tolist() == [-1, -1, -1]
    assert MANY.crossed(here, there).tolist() == [1, 2, -1]


@LAYOUTS
@given(before=points, after=points)
def test_clearance_is_that_of_the_closest_point_of_the_way(
    posts: Posts, before: tuple[float, float], after: tuple[float, float]
) -> None:
    start, end = torch.tensor(before), torch.tensor(after)
    shares = torch.linspace(0, 1, 401)[:, None]
    path = torch.lerp(start, end, shares)
    distance = torch.cdist(path, posts.positions).min() - POST_RADIUS - STICK_RADIUS
    found = posts.clearance(start, end)
    assert found <= distance + 1e-6
    assert distance - found < 2e-3


def test_a_tip_that_rests_is_as_far_as_it_stands() -> None:
    still = FEW.positions[0] - torch.tensor([0.1, 0.0])
    clearance = FEW.clearance(still, still)
    torch.testing.assert_close(clearance, torch.tensor(0.1 - POST_RADIUS - STICK_RADIUS))


def test_the_height_of_the_tip_does_not_count() -> None:
    x, y = FEW.positions[0].tolist()
    before, after = torch.tensor([x - 0.1, y, 0.3]), torch.tensor([x + 0.1, y, 0.3])
    assert FEW.clearance(before, after) < 0
    assert FEW.crossed(before, after)[0] >= 0


def test_pay_depends_on_the_last_gap_alone() -> None:
    pay = MANY.pay(0.3)
    assert pay.shape == (24,)
    torch.testing.assert_close(pay[:4], torch.tensor([0.7, 0.9, 1.1, 1.3]))
    assert torch.equal(pay, pay[:4].repeat(6))
    assert MANY.pay(0).tolist() == [1.0] * 24
