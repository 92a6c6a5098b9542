"""The wall task keeps the contract of every task."""

from __future__ import annotations

from modereg.testing import check_task
from modereg_integrations.maniskill import make_task


def test_the_wall_passes_the_battery_for_tasks() -> None:
    check_task(make_task("ModeregWall-v1"), num_envs=2, expert_episodes=3)
