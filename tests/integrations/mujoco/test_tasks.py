from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

import modereg_integrations.mujoco as ours
from modereg.errors import ConfigurationError
from modereg.plugins import resolve_task
from modereg.tasks import gymnasium_task
from modereg.testing import check_task
from modereg_integrations.mujoco import make_task
from modereg_integrations.mujoco.maze_geometry import wall_boxes


def test_public_names() -> None:
    for name in ours.__all__:
        assert getattr(ours, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ours.nothing


def test_the_battery() -> None:
    check_task(make_task(), expert_episodes=60, expert_success=0.95)


def test_the_battery_on_gymnasiums_form() -> None:
    check_task(gymnasium_task("modereg_integrations.mujoco:ModeregPointMaze-v0"))


def test_by_its_entry_point() -> None:
    task = resolve_task("mujoco:point_maze", pay_spread=0.0, num_envs=7, max_steps=60)
    assert (task.name, task.num_modes, task.layout.time_limit) == (
        "mujoco:point_maze",
        6,
        "terminates",
    )
    assert (task.num_envs, task.layout.execute, task.layout.max_decisions) == (7, 8, 8)
    env = task.make_env(2, device="cpu", seed=0)
    assert env.max_steps == 60


def test_wrong_names_and_options() -> None:
    with pytest.raises(ConfigurationError, match="of point_maze, kitchen, got 'kitchn'. Did you"):
        make_task("kitchn")
    with pytest.raises(ConfigurationError, match="'pay_spred'.*Did you mean 'pay_spread'"):
        resolve_task("mujoco:point_maze", pay_spred=1)


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    make_task().plot(ax, torch.randn(5, 7, 4), torch.tensor([0, 1, 2, -1, 5]))
    assert len(ax.collections[0].get_segments()) == 5
    assert len(ax.patches) == len(wall_boxes()) + 1
    plt.close(fig)
