"""ManiSkill for modereg: environments, multimodal tasks with their experts, and a software driver.

The names below are imported when they are first used, so that
``python -m modereg_integrations.maniskill.vulkan`` starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modereg_integrations.maniskill.env import ManiSkillEnv
    from modereg_integrations.maniskill.tasks import make_task

__all__ = ["ManiSkillEnv", "make_task"]

_HOMES = {"ManiSkillEnv": "env", "make_task": "tasks"}


def __getattr__(name: str) -> object:
    """Import a public name from the submodule that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
