"""The plane of Avoid: cylinders, goal line, gaps and modes, in metres (D3IL, arXiv 2402.14606)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = [
    "CYLINDERS",
    "GOAL_Y",
    "LANES",
    "MODE_NAMES",
    "MODE_WEIGHTS",
    "NUM_MODES",
    "ROWS_Y",
    "START",
    "gaps_of_modes",
]

START = (0.525, -0.28)
"""x and y of the start."""

GOAL_Y = 0.35
"""An episode succeeds beyond this line."""

ROWS_Y = (-0.1, 0.08, 0.26)
"""y of the rows."""

CYLINDERS = (
    (0.5, -0.1, 0.03),
    (0.425, 0.08, 0.025),
    (0.575, 0.08, 0.025),
    (0.35, 0.26, 0.025),
    (0.5, 0.26, 0.025),
    (0.65, 0.26, 0.025),
)
"""x, y and radius of each cylinder, row by row."""

MODE_WEIGHTS = (12, 4, 4, 1, 1, 1)
"""The mode is the sum of these over the cylinders that are passed on their right."""

LANES = ((0.435, 0.565), (0.37, 0.5, 0.63), (0.305, 0.425, 0.575, 0.695))
"""x at which the expert passes each gap of each row, from left to right."""

MODE_NAMES = tuple("-".join(gaps) for gaps in product("LR", "LMR", ("LL", "L", "R", "RR")))
"""The gaps of the three rows, as in ``L-M-RR``; mode = 12 gap_1 + 4 gap_2 + gap_3."""

NUM_MODES = len(MODE_NAMES)


def gaps_of_modes(modes: Tensor) -> Tensor:
    """Gap of each row, counted from the left: modes ``[*B]`` int64 -> ``[*B, 3]`` int64."""
    return torch.stack([modes // 12, modes // 4 % 3, modes % 4], -1)
