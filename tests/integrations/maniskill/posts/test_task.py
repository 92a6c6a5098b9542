"""Tasks of posts keep the contract of every task, and touching a post ends an episode."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.tasks import Task
from modereg.testing import check_task
from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.posts.expert import (
    PostsExpert,
    demonstrate_posts,
    make_posts_env,
)
from modereg_integrations.maniskill.posts.geometry import POSTS

FEW, MANY = POSTS


@pytest.fixture
def task() -> Task:
    return make_task(MANY, num_envs=4)


def play(env: ManiSkillEnv, expert: PostsExpert) -> list[TensorDict]:
    steps = [env.reset()]
    while not steps[-1]["done"].any():
        steps.append(env.step(steps[-1].copy().set("action", expert(steps[-1])[None]))["next"])
    return steps


def test_24_modes_pass_the_battery_for_tasks(task: Task) -> None:
    check_task(task, num_envs=2, expert_episodes=24)


def test_the_expert_knows_every_mode_of_6() -> None:
    task = make_task(FEW)
    assert task.demonstrate is not None
    shown = task.demonstrate(12, 0)
    assert shown.success.all()
    assert shown.mode_counts(6).tolist() == [2] * 6
    starts = shown.observations["observation"][:, 0]
    assert 0 < starts.std(0).max() < 0.02
    assert shown.lengths.max() < task.max_steps
    few = demonstrate_posts(FEW, 3, 0, shares=torch.eye(6)[4])
    assert few.modes.tolist() == [4] * 3


def test_what_the_task_says(task: Task) -> None:
    assert task.name == "maniskill:ModeregPosts24-v1"
    assert (task.num_modes, task.max_steps, task.num_envs) == (24, 60, 4)
    few = make_task(FEW)
    assert (few.num_modes, few.max_steps, few.horizon, few.execute) == (6, 50, 8, 4)
    assert make_task(FEW, max_steps=40).max_steps == 40
    assert few.feature_keys == ("tip_position",)
    assert few.renders


@pytest.mark.parametrize("fast", [False, True])
def test_touching_a_post_ends_the_episode_without_pay(fast: bool) -> None:
    env = make_posts_env(FEW, seed=0, fast=fast)
    steps = play(env, lambda td: torch.tensor([0.5, 0.0, 0.0]))  # straight at the first post
    env.close()
    last = steps[-1]
    assert len(steps) < 12
    assert bool(last["terminated"])
    assert not bool(last["success"])
    assert float(last["reward"]) == 0.0
    assert -0.21 < float(last["tip_position"][0, 0]) < -0.18


def test_velocity_is_seen_and_far_left_pays_most() -> None:
    env = make_posts_env(FEW, seed=0, pay_spread=0.5, fast=True)
    steps = play(env, PostsExpert(POSTS[FEW], 5, env.reset()))
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


def test_another_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0 to 5, got 6"):
        PostsExpert(POSTS[FEW], 6, TensorDict())


def test_the_picture(task: Task) -> None:
    fig, ax = plt.subplots()
    assert task.plot is not None
    paths = torch.randn(5, 7, 3)
    task.plot(ax, paths, torch.tensor([0, 1, 23, -1, 0]))
    first = torch.tensor(ax.collections[0].get_segments()[0])
    torch.testing.assert_close(first.float(), paths[0, :, [1, 0]])  # y across, x upwards
    assert len(ax.patches) == 6
    assert ax.get_xlim()[0] > ax.get_xlim()[1]  # the robot's left is on the left
    plt.close(fig)
