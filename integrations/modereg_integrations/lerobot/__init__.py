"""Policies of LeRobot: DiffusionPolicy, SmolVLA and PI0.

LeRobot wants an environment of its own; the tutorial "My LeRobot policy" makes one. The public
names are imported on first use, and the library itself when a policy is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modereg_integrations.lerobot.policy import LeRobotPolicy

__all__ = ["LeRobotPolicy"]

_HOMES = {"LeRobotPolicy": "policy"}


def __getattr__(name: str) -> object:
    """Import a public name from the submodule that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
