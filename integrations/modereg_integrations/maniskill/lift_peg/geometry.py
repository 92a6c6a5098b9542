"""Geometry of ModeregLiftPeg-v1, in metres and radians, its mode label and rotations; pure torch.

Axes are the robot's: x points away from its base, y to its left, z up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "HALF_LENGTH",
    "HALF_WIDTH",
    "HEIGHT_TOLERANCE",
    "MAX_STEPS",
    "MODE_NAMES",
    "PEG_START",
    "START_NOISE",
    "TILT_TOLERANCE",
    "facing",
    "rotation_vector",
    "standing_mode",
]

MODE_NAMES = ("blue up", "red up")
MAX_STEPS = 80
HALF_LENGTH = 0.12
HALF_WIDTH = 0.025
PEG_START = (0.0, 0.0)
START_NOISE = 0.01
TILT_TOLERANCE = 0.08
HEIGHT_TOLERANCE = 0.005


def standing_mode(position: Tensor, axis: Tensor) -> Tensor:
    """Which end is up, of a peg that stands upright on the table.

    Args:
        position: ``[*B, 3]``, the peg's centre in metres.
        axis: ``[*B, 3]``, unit vector from its red end to its blue one.

    Returns:
        ``[*B]`` int64: 0 blue, 1 red, and -1 for a peg that leans by more than
        ``TILT_TOLERANCE`` or whose lower end is ``HEIGHT_TOLERANCE`` off the table.
    """
    is_upright = axis[..., 2].abs() > math.cos(TILT_TOLERANCE)
    is_down = (position[..., 2] - HALF_LENGTH).abs() < HEIGHT_TOLERANCE
    return torch.where(is_upright & is_down, torch.where(axis[..., 2] > 0, 0, 1), -1)


def facing(along: Tensor, approach: Tensor) -> Tensor:
    """Rotation matrix of a hand by two of its axes, at right angles to each other.

    Args:
        along: ``[*B, 3]``, unit vector of the hand's x axis, across its fingers' closing direction.
        approach: ``[*B, 3]``, unit vector of its z axis, out of the palm.

    Returns:
        ``[*B, 3, 3]``, whose columns are the hand's axes.
    """
    return torch.stack([along, torch.linalg.cross(approach, along), approach], dim=-1)


def rotation_vector(matrix: Tensor) -> Tensor:
    """Axis times angle of a rotation by less than pi, the logarithm of its matrix.

    Args:
        matrix: ``[*B, 3, 3]``.

    Returns:
        ``[*B, 3]``, radians.
    """
    skew = (matrix - matrix.mT) / 2
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    cosine = (matrix.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    length = sine.norm(dim=-1)
    angle = torch.atan2(length, cosine)
    return sine * (angle / length.clamp(min=1e-9)).unsqueeze(-1)
