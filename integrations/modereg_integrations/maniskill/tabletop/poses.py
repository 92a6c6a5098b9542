"""Plans that turn the hand as well: poses of the tool, or of what it holds, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modereg_integrations.maniskill.scripted import REACH

__all__ = ["Frame", "PosePlan", "PoseStage", "facing", "rotation_vector"]

TURN = 0.07
"""Radians of error at which the hand turns at full speed."""


class Frame(NamedTuple):
    """A pose: where its origin is, in metres, ``[3]``, and its axes as columns, ``[3, 3]``."""

    position: Tensor
    rotation: Tensor


class PoseStage(NamedTuple):
    """Which pose comes next, of the tool or of what it holds, and how near is near enough."""

    moved: Literal["tool", "peg"]
    position: tuple[float, float, float]
    rotation: Tensor  # [3, 3], whose columns are the axes
    is_open: bool
    tolerance: float
    angle_tolerance: float = math.pi
    steps: int = 0  # fewest steps to stay in the stage


class PosePlan:
    """Brings the tool, or what it holds, from pose to pose by ``pd_ee_delta_pose`` actions.

    Position and rotation move at the same time, the rotation about the axis that joins the two
    orientations. ManiSkill's controller turns the hand by -0.1 rad a unit of action, about the
    robot's axes: its sign is that of the controller's ``rot_lower``.
    """

    def __init__(self, stages: Sequence[PoseStage]) -> None:
        self._stages = list(stages)
        self._index = self._stayed = 0

    @property
    def stage(self) -> int:
        """Index of the stage that the last action was for."""
        return self._index

    def __call__(self, frames: Mapping[str, Frame]) -> Tensor:
        """Returns the action ``[7]`` in [-1, 1], and moves on in the plan.

        Args:
            frames: where the ``"tool"`` and the ``"peg"`` are.
        """
        offset, angle = self._errors(frames)
        while self._is_over(offset, angle):
            self._index, self._stayed = self._index + 1, 0
            offset, angle = self._errors(frames)
        self._stayed += 1
        grip = 1.0 if self._stages[self._index].is_open else -1.0
        move, turn = _bounded(offset / REACH), _bounded(-angle / TURN)
        return torch.cat([move, turn, move.new_tensor([grip])])

    def _errors(self, frames: Mapping[str, Frame]) -> tuple[Tensor, Tensor]:
        stage = self._stages[self._index]
        position, rotation = frames[stage.moved]
        offset = position.new_tensor(stage.position) - position
        return offset, rotation_vector(stage.rotation.to(rotation.device) @ rotation.mT)

    def _is_over(self, offset: Tensor, angle: Tensor) -> bool:
        stage = self._stages[self._index]
        if self._index + 1 == len(self._stages) or self._stayed < stage.steps:
            return False
        near = float(offset.norm()) < stage.tolerance
        return near and float(angle.norm()) <= stage.angle_tolerance


def _bounded(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1.0)


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
