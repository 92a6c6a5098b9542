"""The peg task keeps the contract of every task."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

from modereg.testing import check_task
from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.lift_peg.task import plot_lift_peg


def test_the_peg_passes_the_battery_for_tasks() -> None:
    check_task(make_task("ModeregLiftPeg-v1"), num_envs=2, expert_episodes=2)


def test_what_the_task_says() -> None:
    task = make_task("ModeregLiftPeg-v1", num_envs=4)
    assert task.name == "maniskill:ModeregLiftPeg-v1"
    assert (task.num_modes, task.mode_names) == (2, ("blue up", "red up"))
    assert (task.max_steps, task.horizon, task.execute, task.num_envs) == (80, 8, 4, 4)
    assert task.renders
    assert task.feature_keys == ("peg_tip",)
    assert make_task("ModeregLiftPeg-v1", max_steps=70).max_steps == 70


def test_the_expert_shows_the_starts_of_the_task() -> None:
    task = make_task("ModeregLiftPeg-v1", start_noise=0.1)
    assert task.demonstrate is not None
    shown = task.demonstrate(2, 1)
    starts = shown.observations["observation"][:, 0, 10:12]
    env = task.make_env(2, device="cpu", seed=0)
    drawn = env.reset()["observation"][:, 10:12]
    env.close()
    assert shown.success.all()
    for peg in (starts, drawn):
        assert 0.02 < peg.abs().max() < 0.1


def test_the_picture() -> None:
    fig, ax = plt.subplots()
    plot_lift_peg(ax, torch.randn(5, 7, 3), torch.tensor([0, 1, 1, -1, 0]))
    assert len(ax.collections[0].get_segments()) == 5
    plt.close(fig)
