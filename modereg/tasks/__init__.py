"""Tasks: environments with their chunk layout, their modes and their experts."""

from __future__ import annotations

from modereg.tasks.avoid import Avoid, avoid_task
from modereg.tasks.base import Demonstrations, Task
from modereg.tasks.environment import environment_task
from modereg.tasks.gaussian_mixture import GaussianMixture, gaussian_mixture_task
from modereg.tasks.gymnasium import GymnasiumEnv, gymnasium_task
from modereg.tasks.workers import WorkerEnv

__all__ = [
    "Avoid",
    "Demonstrations",
    "GaussianMixture",
    "GymnasiumEnv",
    "Task",
    "WorkerEnv",
    "avoid_task",
    "environment_task",
    "gaussian_mixture_task",
    "gymnasium_task",
]
