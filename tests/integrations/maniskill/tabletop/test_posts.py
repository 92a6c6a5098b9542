"""Gaps, digits and modes of the posts, when stick and post touch, and that it ends an episode."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.tasks.experts import Expert
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.posts import POST_RADIUS, STICK_RADIUS, Posts

pytestmark = pytest.mark.usefixtures("shared_simulations")
FEW, MANY = TASKS["ModeregPosts6-v1"], TASKS["ModeregPosts24-v1"]
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
        way = [(-0.27, 0.0)]
        for row, digit in enumerate(digits):
            x, y = float(posts.row_x[row]), float(posts.gap_y(row)[digit])
            way += [(x - 0.06, y), (x + 0.06, y)]
        before, after = torch.tensor(way[:-1]), torch.tensor(way[1:])
        crossed = posts.find(before, after)
        assert crossed.amax(0).tolist() == digits
        assert ((crossed >= 0).sum(0) == 1).all()
        assert posts.clearance(before, after).min() > 0.015


def test_going_back_over_a_row_is_no_crossing() -> None:
    there, here = torch.tensor([0.0, 0.3]), torch.tensor([-0.3, 0.3])
    assert MANY.find(there, here).tolist() == [-1, -1, -1]
    assert MANY.find(here, there).tolist() == [1, 2, -1]


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
    assert FEW.find(before, after)[0] >= 0


def test_pay_depends_on_the_last_gap_alone() -> None:
    pay = MANY.pay(0.3)
    assert pay.shape == (24,)
    torch.testing.assert_close(pay[:4], torch.tensor([0.7, 0.9, 1.1, 1.3]))
    assert torch.equal(pay, pay[:4].repeat(6))
    assert MANY.pay(0).tolist() == [1.0] * 24


def play(env: ManiSkillEnv, expert: Expert) -> list[TensorDict]:
    steps = [env.reset()]
    while not steps[-1]["done"].any():
        steps.append(env.step(steps[-1].copy().set("action", expert(steps[-1])[None]))["next"])
    return steps


def test_the_expert_knows_every_mode_of_6() -> None:
    shown = FEW.demonstrate(12, 0)
    assert shown.success.all()
    assert shown.mode_counts(6).tolist() == [2] * 6
    starts = shown.observations["observation"][:, 0]
    assert 0 < starts.std(0).max() < 0.02
    assert shown.lengths.max() < FEW.max_steps
    assert FEW.demonstrate(3, 0, shares=torch.eye(6)[4]).modes.tolist() == [4] * 3


@pytest.mark.parametrize("fast", [False, True])
def test_touching_a_post_ends_the_episode_without_pay(fast: bool) -> None:
    env = FEW.env(seed=0, fast=fast)
    steps = play(env, lambda td: torch.tensor([0.5, 0.0, 0.0]))  # straight at the first post
    env.close()
    last = steps[-1]
    assert len(steps) < 12
    assert bool(last["terminated"])
    assert not bool(last["success"])
    assert float(last["reward"]) == 0.0
    assert -0.21 < float(last["tip_position"][0, 0]) < -0.18


def test_velocity_is_seen_and_far_left_pays_most() -> None:
    env = FEW.env(seed=0, pay_spread=0.5, fast=True)
    steps = play(env, FEW.expert(5, env.reset()))
    env.close()
    assert (int(steps[-1]["mode"]), float(steps[-1]["reward"])) == (5, 1.5)
    assert sum(float(step.get("reward", torch.zeros(1))) for step in steps[1:]) == 1.5
    observation = torch.cat([step["observation"] for step in steps])
    moved = observation[1:, :3] - observation[:-1, :3]
    mean = (observation[1:, 3:] + observation[:-1, 3:]) / 2
    assert torch.corrcoef(torch.stack([moved.flatten(), mean.flatten()]))[0, 1] > 0.8
    modes = [int(step["mode"]) for step in steps]
    first = modes.index(5)
    assert modes == [-1] * first + [5] * (len(modes) - first)


def test_nothing_is_moved_at_a_reset() -> None:
    with pytest.raises(ConfigurationError, match="no start_noise.*Posts6-v1 moves nothing"):
        FEW.env(start_noise=0.1)


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    paths = torch.randn(5, 7, 3)
    MANY.picture(ax, paths, torch.tensor([0, 1, 23, -1, 0]))
    first = torch.tensor(ax.collections[0].get_segments()[0])
    torch.testing.assert_close(first.float(), paths[0, :, [1, 0]])  # y across, x upwards
    assert len(ax.patches) == 6
    assert ax.get_xlim()[0] > ax.get_xlim()[1]  # the robot's left is on the left
    plt.close(fig)
