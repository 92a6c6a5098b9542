"""Judging a step of our own tasks in numpy: what the fast path puts in place of ``evaluate``.

Sums are taken in double precision, so a cube within a rounding error of a border may be judged
otherwise than by the batched form; nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import hypot
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modereg_integrations.maniskill.wall.env import ModeregWallEnv
from modereg_integrations.maniskill.wall.geometry import (
    GOAL,
    GOAL_HEIGHT,
    GOAL_RADIUS,
    WALL_HALF_SIZE,
    WALL_X,
)

__all__ = ["Evaluate", "crossing_mode", "lean_evaluate"]

Evaluate = Callable[[], dict[str, Tensor]]
"""A task's ``evaluate``."""


def lean_evaluate(sim: Any) -> Evaluate | None:
    """The shorter way to what ``sim.evaluate`` says, where there is one.

    Args:
        sim: an unwrapped ManiSkill environment of one row on the CPU.
    """
    if type(sim).evaluate is ModeregWallEnv.evaluate:
        return lambda: _evaluate_wall(sim)
    return None


def _evaluate_wall(sim: Any) -> dict[str, Tensor]:
    x, y, z = position = sim.cube._objs[0].pose.p
    mode = int(sim._mode)
    if mode < 0:
        mode = crossing_mode(sim._previous[0].tolist(), position.tolist())
        sim._mode = torch.tensor([mode])
    cube = torch.from_numpy(position[None])
    sim._previous = cube.clone()
    near = hypot(x - GOAL[0], y - GOAL[1]) < GOAL_RADIUS
    success = bool(near and z < GOAL_HEIGHT and mode >= 0)
    return {
        "success": torch.from_numpy(np.array([success])),
        "mode": torch.from_numpy(np.array([mode])),
        "cube_position": cube,
    }


def crossing_mode(before: list[float], after: list[float]) -> int:
    """The mode of one step of the cube across the wall's plane, or -1.

    Args:
        before: position ``[3]`` in metres.
        after: ``[3]``.
    """
    if not before[0] < WALL_X <= after[0]:
        return -1
    share = (WALL_X - before[0]) / max(after[0] - before[0], 1e-9)
    y = before[1] + share * (after[1] - before[1])
    return 2 if abs(y) <= WALL_HALF_SIZE[1] else 0 if y > 0 else 1
