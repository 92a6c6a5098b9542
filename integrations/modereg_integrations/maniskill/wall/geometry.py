"""Geometry of ModeregWall-v1, in metres, and its mode label; pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "CUBE_HALF_SIZE",
    "CUBE_START",
    "GOAL",
    "GOAL_HEIGHT",
    "GOAL_RADIUS",
    "MAX_STEPS",
    "MODE_NAMES",
    "START_NOISE",
    "WALL_HALF_SIZE",
    "WALL_X",
    "crossing_mode",
]

MODE_NAMES = ("left", "right", "over")
MAX_STEPS = 60
CUBE_HALF_SIZE = 0.02
CUBE_START = (-0.16, 0.0)
START_NOISE = 0.01
WALL_X = -0.06
WALL_HALF_SIZE = (0.01, 0.07, 0.04)
GOAL = (0.06, 0.0)
GOAL_RADIUS = 0.03
GOAL_HEIGHT = 0.08


def crossing_mode(before: Tensor, after: Tensor) -> Tensor:
    """Mode of a cube that moved from ``before`` to ``after`` in one step.

    The path is interpolated at the wall's plane ``x = WALL_X``: over (2) if it crosses the plane
    within the wall's width, else left (0) or right (1).

    Args:
        before: ``[*B, 3]``, positions in metres.
        after: ``[*B, 3]``.

    Returns:
        ``[*B]`` int64, -1 where the plane was not crossed from the robot's side.
    """
    share = (WALL_X - before[..., 0]) / (after[..., 0] - before[..., 0]).clamp(min=1e-9)
    y = torch.lerp(before[..., 1], after[..., 1], share)
    mode = torch.where(y.abs() <= WALL_HALF_SIZE[1], 2, torch.where(y > 0, 0, 1))
    crossed = (before[..., 0] < WALL_X) & (after[..., 0] >= WALL_X)
    return torch.where(crossed, mode, -1)
