"""The LeRobot library, imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modereg.errors import MissingDependencyError

__all__ = ["library"]


def library(module: str) -> Any:
    """Return a module of LeRobot, such as ``policies.factory``.

    Raises:
        MissingDependencyError: if LeRobot is not installed, or is too old.
    """
    try:
        import_module("lerobot.policies.common")
        return import_module(f"lerobot.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "lerobot":
            raise
        raise MissingDependencyError(
            "LeRobotPolicy needs LeRobot 0.6, which is not installed; it asks for Python 3.12 and "
            "an environment of its own: there, run 'pip install \"lerobot[diffusion,smolvla,pi]"
            '==0.6.*" "torchrl==0.14.*" "tensordict==0.14.*" matplotlib tensorboard tyro\', '
            "then 'pip install --no-deps modereg'"
        ) from error
