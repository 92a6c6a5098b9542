"""Joint and end-effector controllers of one CPU simulation in numpy instead of batched torch.

The targets are equal to the last bit to those of ManiSkill's controllers, which also remain the
source of everything that is computed once: limits, joint orders and pinocchio's model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.controllers import (
    PDEEPosController,
    PDEEPoseController,
    PDJointPosController,
    PDJointPosMimicController,
)

from modereg_integrations.maniskill.fast import quaternions
from modereg_integrations.maniskill.fast.bodies import raw_pose
from modereg_integrations.maniskill.fast.quaternions import Vector

__all__ = ["Actuator", "actuator", "unsupported"]

_ONE, _MINUS_ONE = np.float32(1), np.float32(-1)

Actuator = Callable[[Vector, Vector], None]
"""Takes an action ``[A]`` in its controller's units and the positions ``[J]`` of all joints."""


def unsupported(controller: Any) -> str | None:
    """What about a controller the fast path does not know, or None."""
    supported = (
        PDEEPosController,
        PDEEPoseController,
        PDJointPosController,
        PDJointPosMimicController,
    )
    if type(controller) not in supported:
        return type(controller).__name__
    for option in ("use_target", "interpolate"):
        if getattr(controller.config, option):
            return f"{type(controller).__name__} with {option}=True"
    return None


def actuator(controller: Any) -> Actuator:
    """The function that does what ``controller.set_action`` does."""
    if isinstance(controller, PDEEPosController):
        return _EndEffector(controller)
    if isinstance(controller, PDJointPosMimicController):
        return _Mimic(controller)
    return _Joints(controller)


class _Drives:
    """The joints of a controller, and how it scales an action."""

    def __init__(self, controller: Any) -> None:
        self._drives = [joint._objs[0] for joint in controller.joints]
        self._indices = controller.active_joint_indices.numpy()
        self._normalized = controller._normalize_action
        if self._normalized:
            low, high = controller.action_space_low, controller.action_space_high
            self._middle, self._half = 0.5 * (high + low).numpy(), 0.5 * (high - low).numpy()

    def _scale(self, action: Vector) -> Vector:
        if not self._normalized:
            return action
        clipped = np.minimum(np.maximum(action, _MINUS_ONE), _ONE)
        scaled: Vector = self._middle + self._half * clipped
        return scaled

    def _drive(self, targets: Vector) -> None:
        for joint, target in zip(self._drives, targets):
            joint.set_drive_target(target)


class _Joints(_Drives):
    """Joint positions, absolute or from where the joints are."""

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        self._use_delta = controller.config.use_delta

    def __call__(self, action: Vector, qpos: Vector) -> None:
        action, start = self._scale(action), qpos[self._indices]
        self._drive(start + action if self._use_delta else np.broadcast_to(action, start.shape))


class _Mimic(_Joints):
    """Joint positions of which some follow others."""

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        self._led = controller.control_joint_indices.numpy()
        self._leaders = controller.mimic_control_joint_indices.numpy()
        self._followers = controller.mimic_joint_indices.numpy()
        self._multiplier = controller._multiplier.numpy()
        self._offset = controller._offset.numpy()
        self._targets = np.zeros(len(self._indices), np.float32)

    def __call__(self, action: Vector, qpos: Vector) -> None:
        action, targets = self._scale(action), self._targets
        targets[self._led] = qpos[self._indices][self._led] + action if self._use_delta else action
        targets[self._followers] = targets[self._leaders] * self._multiplier + self._offset
        self._drive(targets)


class _EndEffector(_Drives):
    """A pose of the end effector, by pinocchio's inverse kinematics."""

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        self._controller, kinematics = controller, controller.kinematics
        self._root = controller.root_link._objs[0]
        self._end = controller.ee_link._objs[0]
        self._solve = kinematics.pmodel.compute_inverse_kinematics
        self._end_index = kinematics.end_link_idx
        self._mask = kinematics.qmask.numpy()
        self._model_joints = kinematics.pmodel_active_joint_indices.numpy()
        self._controlled = kinematics.pmodel_controlled_joint_indices.numpy()
        self._turns = isinstance(controller, PDEEPoseController)
        self._base = self._inverse = np.zeros(7, np.float32)

    def __call__(self, action: Vector, qpos: Vector) -> None:
        now = quaternions.compose(self._to_base(), raw_pose(self._end.entity_pose))
        result, success, _ = self._solve(
            self._end_index,
            self._target(action, now),
            initial_qpos=qpos[self._model_joints],
            active_qmask=self._mask,
            max_iterations=100,
        )
        found = result[self._controlled].astype(np.float32)
        self._drive(found if success else qpos[self._indices])

    def _to_base(self) -> Vector:
        """The inverse ``[7]`` of the root's pose, which hardly ever moves."""
        base = raw_pose(self._root.entity_pose)
        if not np.array_equal(base, self._base):
            self._base, self._inverse = base, quaternions.invert(base)
        return self._inverse

    def _target(self, action: Vector, now: Vector) -> Any:
        """The pose in the root's frame that an action asks for."""
        config, start = self._controller.config, now[3:]
        change = self._turning_scale(action) if self._turns else self._scale(action)
        if not config.use_delta:
            batch = torch.from_numpy(change[None])
            return self._controller.compute_target_pose(None, batch).sp
        shift = change[:3]
        if "body_translation" in config.frame:
            shift = quaternions.apply(start, shift)
        if not self._turns:
            return sapien.Pose(now[:3] + shift, -start if start[0] < 0 else start)
        turn = quaternions.from_euler(change[3:])
        at_root = "root_aligned_body_rotation" in config.frame
        turned = quaternions.multiply(*((turn, start) if at_root else (start, turn)))
        return sapien.Pose(now[:3] + shift, turned)

    def _turning_scale(self, action: Vector) -> Vector:
        """As the controller scales a turn: no longer than 1, and by its bound."""
        if not self._normalized:
            return action
        batch = self._controller._clip_and_scale_action(torch.from_numpy(action[None]))
        scaled: Vector = batch.numpy()[0]
        return scaled
