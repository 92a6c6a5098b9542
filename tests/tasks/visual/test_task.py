"""The visual task keeps the contract of tasks, and is found by its name."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

import modereg.tasks.visual as ours
from modereg.plugins import resolve_task
from modereg.tasks.visual import IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY, visual_avoid_task
from modereg.testing import check_task


def test_public_names() -> None:
    assert all(hasattr(ours, name) for name in ours.__all__)


def test_the_battery() -> None:
    task = visual_avoid_task()
    assert task.observation_keys == (IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY)
    check_task(task, expert_episodes=60, expert_success=0.95)


def test_by_its_name() -> None:
    task = resolve_task("task:visual_avoid", pay_spread=0.0, image_size=16, num_envs=7)
    assert (task.name, task.num_modes, task.layout.time_limit) == ("visual_avoid", 6, "terminates")
    assert (task.num_envs, task.layout.execute, task.layout.max_decisions) == (7, 6, 9)
    env = task.make_env(2, device="cpu", seed=0)
    assert env.reset()[IMAGE_KEY].shape == (2, 3, 16, 16)
    assert bool((env.pay == 1).all())


def test_the_picture() -> None:
    task = visual_avoid_task()
    fig, ax = plt.subplots()
    task.plot(ax, torch.randn(5, 7, 2), torch.tensor([0, 1, 2, -1, 5]))
    assert len(ax.collections[0].get_segments()) == 5
    assert len(ax.patches) == 5
    plt.close(fig)
