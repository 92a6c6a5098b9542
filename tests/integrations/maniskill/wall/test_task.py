"""The wall task keeps the contract of every task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

from modereg.testing import check_task
from modereg_integrations.maniskill import make_task, wall_task
from modereg_integrations.maniskill.wall.task import plot_wall


def test_the_wall_passes_the_battery_for_tasks() -> None:
    check_task(make_task("ModeregWall-v1"), num_envs=2, expert_episodes=3)


def test_the_wall_task() -> None:
    task = make_task("ModeregWall-v1", num_envs=4)
    assert task.name == "maniskill:ModeregWall-v1"
    assert (task.num_modes, task.mode_names) == (3, ("left", "right", "over"))
    assert (task.max_steps, task.horizon, task.execute, task.num_envs) == (60, 8, 4, 4)
    env = task.make_env(2, device="cpu", seed=0)
    td = env.reset()
    for key in (*task.observation_keys, *task.feature_keys, "mode", "success"):
        assert key in td
    env.close()
    assert task.demonstrate is not None
    assert task.demonstrate(1, 0).actions.shape == (1, 60, 4)
    assert wall_task().make_env.func is task.make_env.func


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    plot_wall(ax, torch.randn(5, 7, 3), torch.tensor([0, 1, 2, -1, 0]))
    assert len(ax.collections[0].get_segments()) == 5
    plt.close(fig)
