"""Geometry of ModeregDiscs-v1, in metres, its mode label and what modes pay; pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "CUBE_HALF_SIZE",
    "CUBE_START",
    "DISCS",
    "DISC_RADIUS",
    "MAX_STEPS",
    "MODE_NAMES",
    "START_NOISE",
    "TABLE_HEIGHT",
    "disc_pay",
    "placed_on",
]

MODE_NAMES = ("near left", "near right", "far left", "far right")
MAX_STEPS = 60
CUBE_HALF_SIZE = 0.02
CUBE_START = (-0.08, 0.0)
START_NOISE = 0.01
DISCS = ((-0.18, 0.1), (-0.18, -0.1), (0.02, 0.1), (0.02, -0.1))
"""x and y of each disc's centre, in the order of the modes."""

DISC_RADIUS = 0.03
TABLE_HEIGHT = CUBE_HALF_SIZE + 0.005
"""The cube is on the table where its centre is lower."""


def placed_on(cube: Tensor) -> Tensor:
    """Disc that a cube lies on: the nearest, if the cube's centre is over it.

    Args:
        cube: ``[*B, 3]``, positions in metres.

    Returns:
        ``[*B]`` int64, -1 where the cube is off the discs or above the table.
    """
    discs = torch.tensor(DISCS, device=cube.device)
    distance, nearest = (cube[..., None, :2] - discs).norm(dim=-1).min(-1)
    lies = (distance < DISC_RADIUS) & (cube[..., 2] < TABLE_HEIGHT)
    return torch.where(lies, nearest, -1)


def disc_pay(spread: float) -> Tensor:
    """Pay of each disc, equally spaced from ``1 + spread`` down to ``1 - spread``, ``[4]``."""
    return 1 + spread * torch.linspace(1, -1, len(DISCS))
