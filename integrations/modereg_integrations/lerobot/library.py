"""The LeRobot library, imported on use."""

from __future__ import annotations

from typing import Any

from modereg.lazy import optional

__all__ = ["library"]

_USER = "LeRobotPolicy (with Python 3.12 or newer)"


def library(module: str) -> Any:
    """Return a module of LeRobot, such as ``policies.factory``.

    Raises:
        MissingDependencyError: if LeRobot is not installed, or is too old.
    """
    optional("lerobot.policies.common", _USER, "modereg[lerobot]")
    return optional(f"lerobot.{module}", _USER, "modereg[lerobot]")
