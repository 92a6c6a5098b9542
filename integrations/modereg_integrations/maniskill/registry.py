"""The tasks of ours that ManiSkill learns of: their ids, and the sub-package of each."""

from __future__ import annotations

from importlib import import_module

__all__ = ["OWN_TASKS", "register_own_tasks"]

OWN_TASKS = {
    "ModeregDiscs-v1": "discs",
    "ModeregLiftPeg-v1": "lift_peg",
    "ModeregPosts6-v1": "posts",
    "ModeregPosts24-v1": "posts",
    "ModeregReach-v1": "reach",
    "ModeregWall-v1": "wall",
}
"""Id -> sub-package; its ``env`` registers the id, its ``task`` has ``make_task(env_id, ...)``."""


def register_own_tasks() -> None:
    """Register our tasks with ManiSkill, which must be installed; again, it does nothing."""
    for package in OWN_TASKS.values():
        import_module(f"{__package__}.{package}.env")
