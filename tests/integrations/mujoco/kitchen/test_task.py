from __future__ import annotations

import pytest

from modereg.errors import ConfigurationError
from modereg.plugins import resolve_task
from modereg.testing import check_task


def test_the_battery() -> None:
    task = resolve_task("mujoco:kitchen", subtasks=2, max_steps=170)
    check_task(task, num_envs=2, expert_episodes=2)


def test_by_its_entry_point() -> None:
    task = resolve_task("mujoco:kitchen", num_envs=7, subtasks=4)
    assert (task.name, task.num_modes, task.num_envs) == ("mujoco:kitchen", 24, 7)
    assert (task.layout.max_steps, task.layout.max_decisions) == (360, 45)
    assert tuple(task.layout.features) == ("hand",)
    env = resolve_task("mujoco:kitchen", max_steps=60).make_env(2, device="cpu", seed=0)
    assert env.max_steps == 60


def test_wrong_options() -> None:
    with pytest.raises(ConfigurationError, match="expected 2, 3 or 4 subtasks, got 5"):
        resolve_task("mujoco:kitchen", subtasks=5)
    with pytest.raises(ConfigurationError, match="no option 'subtask'.*Did you mean 'subtasks'"):
        resolve_task("mujoco:kitchen", subtask=3)
