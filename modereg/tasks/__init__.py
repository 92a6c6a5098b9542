"""Tasks: environments with their chunk layout, their modes and their experts."""

from __future__ import annotations

from modereg.tasks.base import Demonstrations, Task

__all__ = ["Demonstrations", "Task"]
