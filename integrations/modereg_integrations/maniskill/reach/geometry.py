"""Geometry of ModeregReach-v1, in metres, and its mode label; pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "GOAL",
    "GOAL_NOISE",
    "GOAL_RADIUS",
    "MAX_STEPS",
    "MODE_NAMES",
    "OBSTACLE_HALF_SIZE",
    "OBSTACLE_X",
    "OVER",
    "START",
    "passing_side",
]

MODE_NAMES = ("left", "right")
MAX_STEPS = 40
START = (-0.16, 0.0, 0.08)
OBSTACLE_X = -0.03
OBSTACLE_HALF_SIZE = (0.02, 0.05, 0.1)
GOAL = (0.1, 0.0, 0.08)
GOAL_NOISE = 0.01
GOAL_RADIUS = 0.025

OVER = 2
"""What :func:`passing_side` says of a tool that passed over the obstacle, which is no mode."""


def passing_side(before: Tensor, after: Tensor) -> Tensor:
    """Side of the obstacle on which a tool passed that moved from ``before`` to ``after``.

    The path is interpolated at the obstacle's plane ``x = OBSTACLE_X``: left (0) or right (1) of
    the obstacle, or :data:`OVER` within its width, however high.

    Args:
        before: ``[*B, 3]``, positions in metres.
        after: ``[*B, 3]``.

    Returns:
        ``[*B]`` int64, -1 where the plane was not crossed from the robot's side.
    """
    share = (OBSTACLE_X - before[..., 0]) / (after[..., 0] - before[..., 0]).clamp(min=1e-9)
    y = torch.lerp(before[..., 1], after[..., 1], share)
    side = torch.where(y.abs() <= OBSTACLE_HALF_SIZE[1], OVER, torch.where(y > 0, 0, 1))
    crossed = (before[..., 0] < OBSTACLE_X) & (after[..., 0] >= OBSTACLE_X)
    return torch.where(crossed, side, -1)
