"""The plane of the visual task: three posts in two rows, two discs, six routes, in metres."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = [
    "APPROACH_Y",
    "DISC_RADIUS",
    "DISC_SPREAD",
    "DISC_X",
    "DISC_Y",
    "HIGH",
    "LANES",
    "LOW",
    "MODE_NAMES",
    "NUM_MODES",
    "POSTS",
    "ROWS_Y",
    "START",
    "gaps_of_modes",
]

LOW, HIGH = (-0.5, 0.0), (0.5, 1.0)
"""Corners of the plane, whose walls hold the point."""

START = (0.0, 0.06)
"""x and y of the start."""

POSTS = ((0.0, 0.28, 0.08), (-0.16, 0.58, 0.06), (0.16, 0.58, 0.06))
"""x, y and radius of each post: one in the first row, two in the second."""

ROWS_Y = (0.28, 0.58)
"""y of the rows."""

APPROACH_Y = 0.66
"""Behind this line only the disc that the instruction names is left to decide."""

DISC_X, DISC_SPREAD, DISC_Y, DISC_RADIUS = 0.23, 0.13, 0.92, 0.09
"""The discs are about -x (red) and x (blue), at most so far from it, at this y."""

LANES = ((-0.2, 0.2), (-0.33, 0.0, 0.33))
"""x at which the expert passes each gap of each row, from left to right."""

MODE_NAMES = tuple("-".join(gaps) for gaps in product("LR", "LMR"))
"""The gaps of the two rows, as in ``L-M``; mode = 3 gap_1 + gap_2."""

NUM_MODES = len(MODE_NAMES)


def gaps_of_modes(modes: Tensor) -> Tensor:
    """Gap of each row, counted from the left: modes ``[*B]`` int64 -> ``[*B, 2]`` int64."""
    return torch.stack([modes // 3, modes % 3], -1)
