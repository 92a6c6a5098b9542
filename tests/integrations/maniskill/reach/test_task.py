"""The reach task keeps the contract of every task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

from modereg.testing import check_task
from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.reach.task import plot_reach


def test_reach_passes_the_battery_for_tasks() -> None:
    check_task(make_task("ModeregReach-v1"), num_envs=2, expert_episodes=4)


def test_what_the_task_says() -> None:
    task = make_task("ModeregReach-v1", num_envs=4)
    assert task.name == "maniskill:ModeregReach-v1"
    assert (task.num_modes, task.mode_names) == (2, ("left", "right"))
    assert (task.max_steps, task.horizon, task.execute, task.num_envs) == (40, 8, 4, 4)
    assert task.renders
    assert task.feature_keys == ("tip_position",)
    assert make_task("ModeregReach-v1", max_steps=30).max_steps == 30


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    plot_reach(ax, torch.randn(5, 7, 3), torch.tensor([0, 1, 1, -1, 0]))
    assert len(ax.collections[0].get_segments()) == 5
    plt.close(fig)
