from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.scripted import Stage, StagedPlan
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.reach import (
    GOAL_RADIUS,
    OBSTACLE_HALF_SIZE,
    OBSTACLE_X,
)

pytestmark = pytest.mark.usefixtures("shared_simulations")

REACH = TASKS["ModeregReach-v1"]
coordinates = st.integers(-3001, 3001).map(lambda number: number / 10_000)


def play(env: ManiSkillEnv, plan: StagedPlan) -> list[TensorDict]:
    """Follow a plan of the tip to the end of the episode."""
    steps = [env.reset()]
    while not steps[-1]["done"].any() and len(steps) <= REACH.max_steps:
        action: Tensor = plan(steps[-1]["tip_position"][0])[:3]
        steps.append(env.step(steps[-1].copy().set("action", action[None]))["next"])
    return steps


@given(before=st.tuples(coordinates, coordinates), after=st.tuples(coordinates, coordinates))
def test_the_side_is_where_the_path_meets_the_plane(
    before: tuple[float, float], after: tuple[float, float]
) -> None:
    (x0, y0), (x1, y1) = before, after
    assume(OBSTACLE_X not in (x0, x1))
    expected = -1
    if x0 < OBSTACLE_X <= x1:
        y = y0 + (y1 - y0) * (OBSTACLE_X - x0) / (x1 - x0)
        assume(abs(abs(y) - OBSTACLE_HALF_SIZE[1]) > 1e-6)
        expected = 2 if abs(y) < OBSTACLE_HALF_SIZE[1] else int(y < 0)
    ends = torch.tensor([[x0, y0, 0.0], [x1, y1, 0.0]])
    assert int(REACH.find(*ends)) == expected


def test_the_expert_reaches_the_goal_on_either_side() -> None:
    shown = REACH.demonstrate(6, seed=0)
    assert shown.success.all()
    assert shown.mode_counts(2).tolist() == [3, 3]
    assert shown.lengths.max() < REACH.max_steps
    seen = shown.observations["observation"]
    assert 0 < seen[:, 0].std(0).max() < 0.02  # one start state leads to both modes
    left = seen[torch.arange(6), shown.lengths, 3:]
    assert left.norm(dim=-1).max() < GOAL_RADIUS
    for path, mode in zip(shown.observations["tip_position"], shown.modes):
        y = path[int((path[:, 0] >= OBSTACLE_X).nonzero()[0]), 1]
        assert (y > OBSTACLE_HALF_SIZE[1]) if mode == 0 else (y < -OBSTACLE_HALF_SIZE[1])


@pytest.mark.parametrize("fast", [False, True])
def test_touching_the_obstacle_ends_the_episode_without_pay(fast: bool) -> None:
    env = REACH.env(seed=0, fast=fast)
    y = OBSTACLE_HALF_SIZE[1] + 0.06  # clear of it by the stick, and not by the hand
    along = [Stage((-0.1, y, 0.08), False, 0.03), Stage((0.1, y, 0.08), False, 0)]
    steps = play(env, StagedPlan(along))
    env.close()
    assert steps[-1]["terminated"].all()
    assert not steps[-1]["success"].any()
    assert float(steps[-1]["reward"]) == 0
    assert steps[-1]["tip_position"][0, 0] < OBSTACLE_X
    assert len(steps) < REACH.max_steps / 2


def test_passing_over_the_obstacle_ends_the_episode_without_pay() -> None:
    env = REACH.env(seed=0)
    above = 2 * OBSTACLE_HALF_SIZE[2] + 0.06
    steps = play(
        env, StagedPlan([Stage((-0.16, 0, above), False, 0.03), Stage((0.1, 0, above), False, 0)])
    )
    env.close()
    last = steps[-1]
    assert last["terminated"].all()
    assert not last["success"].any()
    assert int(last["mode"]) == -1
    assert OBSTACLE_X <= last["tip_position"][0, 0] < OBSTACLE_X + 0.06
    assert last["tip_position"][0, 2] > 2 * OBSTACLE_HALF_SIZE[2]


@pytest.mark.parametrize("mode", [0, 1])
def test_modes_may_pay_unequally_and_the_label_is_forgotten_at_reset(mode: int) -> None:
    env = REACH.env(seed=0, pay_spread=0.5)
    td = env.reset()
    expert = REACH.expert(mode, td)
    modes, total = [], 0.0
    while not td["done"].any():
        td = env.step(td.copy().set("action", expert(td)[None]))["next"]
        modes.append(int(td["mode"]))
        total += float(td["reward"])
    assert total == 1.5 - mode
    first = modes.index(mode)
    assert modes == [-1] * first + [mode] * (len(modes) - first)
    assert int(env.reset()["mode"]) == -1
    env.close()
