"""Tasks of ours on a table: a Panda, what stands before it, and several ways to succeed.

Each is a description in a module of its own, in pure torch; one environment,
:class:`~modereg_integrations.maniskill.tabletop.scene.TabletopEnv`, simulates them all.
"""

from __future__ import annotations

from modereg_integrations.maniskill.tabletop.base import TabletopTask
from modereg_integrations.maniskill.tabletop.discs import Discs
from modereg_integrations.maniskill.tabletop.lift_peg import LiftPeg
from modereg_integrations.maniskill.tabletop.posts import Posts
from modereg_integrations.maniskill.tabletop.reach import Reach
from modereg_integrations.maniskill.tabletop.wall import Wall

__all__ = ["TASKS"]

TASKS: dict[str, TabletopTask] = {
    task.env_id: task
    for task in (
        Discs(),
        LiftPeg(),
        Posts("ModeregPosts6-v1", rows=(1, 2), max_steps=50),
        Posts("ModeregPosts24-v1", rows=(1, 2, 3), max_steps=60),
        Reach(),
        Wall(),
    )
}
"""The tasks by the ids under which ManiSkill has them."""
