"""Poses and contacts of ManiSkill's bodies read from SAPIEN by numpy instead of batched torch.

For one CPU simulation. The values are equal to the last bit; only the way to them is shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils import common, sapien_utils
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg_integrations.maniskill import quaternions

__all__ = ["Contacts", "FastPose", "bodies", "faster_class", "is_grasping", "is_static", "raw_pose"]


def raw_pose(pose: sapien.Pose) -> quaternions.Vector:
    """A SAPIEN pose as ``[7]`` float32, position before quaternion."""
    return np.concatenate((pose.p, pose.q))


class FastPose(Pose):
    """A ManiSkill pose whose products and inverse are taken in numpy while it has one row."""

    def __mul__(self, other: Pose | sapien.Pose) -> Pose:
        """The pose ``self other``, ``[1, 7]`` or whatever ManiSkill makes of several rows."""
        right = raw_pose(other)[None] if isinstance(other, sapien.Pose) else other.raw_pose.numpy()
        if len(self) != 1 or right.shape != (1, 7):
            return super().__mul__(other)
        return _wrap(quaternions.compose(self.raw_pose.numpy()[0], right[0]))

    def inv(self) -> Pose:
        """The inverse pose."""
        if len(self) != 1:
            return super().inv()
        return _wrap(quaternions.invert(self.raw_pose.numpy()[0]))

    def to_transformation_matrix(self) -> Tensor:
        """The homogeneous matrix ``[1, 4, 4]``."""
        if len(self) != 1:
            return super().to_transformation_matrix()
        raw = self.raw_pose.numpy()[0]
        matrix = np.eye(4, dtype=np.float32)
        matrix[:3, :3], matrix[:3, 3] = quaternions.rotation_matrix(raw[3:]), raw[:3]
        return torch.from_numpy(matrix[None])


def _wrap(raw: quaternions.Vector) -> FastPose:
    return FastPose(raw_pose=torch.from_numpy(raw[None]))


@cache
def faster_class(cls: Any, attribute: str) -> type:
    """A subclass of ManiSkill's ``Link`` or ``Actor`` that reads its pose faster.

    Args:
        cls: the class.
        attribute: where one of its SAPIEN objects has its pose: ``"entity_pose"`` or ``"pose"``.
    """
    pose_of = attrgetter(attribute)

    def read(self: Any) -> FastPose:
        if len(self._objs) == 1:
            return _wrap(raw_pose(pose_of(self._objs[0])))
        rows = np.stack([raw_pose(pose_of(body)) for body in self._objs])
        return FastPose(raw_pose=torch.from_numpy(rows))

    return type(cls.__name__, (cls,), {"pose": property(read, cls.pose.fset)})


def bodies(scene: Any) -> Iterator[tuple[Any, str]]:
    """The actors and links of a ManiSkill scene, each with its SAPIEN objects' pose attribute."""
    for actor in (*scene.actors.values(), *scene.actor_views.values()):
        yield actor, "pose"
    for articulation in (*scene.articulations.values(), *scene.articulation_views.values()):
        for link in articulation.links:
            yield link, "entity_pose"


class Contacts:
    """Contacts of a scene, fetched once a physics step.

    Args:
        scene: a ManiSkill scene with one simulation on the CPU.
    """

    def __init__(self, scene: Any) -> None:
        self._physics = scene.px
        self._contacts: list[tuple[Any, Any, Any]] | None = None

    def step(self) -> None:
        """One physics step, in place of the scene's."""
        self._contacts = None
        self._physics.step()

    def impulse(self, first: Any, second: Any) -> np.ndarray:
        """The impulse ``[3]`` float32 in newton seconds of two bodies on each other."""
        if self._contacts is None:
            self._contacts = [
                (*(body.entity for body in contact.bodies), contact)
                for contact in self._physics.get_contacts()
            ]
        one, other = first._bodies[0].entity, second._bodies[0].entity
        found = [
            (contact, a == one)
            for a, b, contact in self._contacts
            if (a == one and b == other) or (a == other and b == one)
        ]
        total: np.ndarray = sapien_utils.compute_total_impulse(found)
        return total.astype(np.float32)

    def impulses(self, first: Any, second: Any) -> Tensor:
        """The same as ``[1, 3]``, in place of the scene's ``get_pairwise_contact_impulses``."""
        return torch.from_numpy(self.impulse(first, second)[None])


def is_grasping(agent: Any, contacts: Contacts) -> Callable[..., Tensor]:
    """In place of the Panda's ``is_grasping``: both fingers press, each roughly along its way.

    Args:
        agent: the robot.
        contacts: of its scene.
    """
    timestep = agent.scene.px.timestep

    def presses(finger: Any, sign: int, body: Any, min_force: float, max_angle: float) -> bool:
        force = contacts.impulse(finger, body) / np.float32(timestep)
        strength = np.linalg.norm(force)
        if strength < min_force:
            return False
        axis = sign * quaternions.rotation_matrix(finger._objs[0].entity_pose.q)[:, 1]
        return bool(np.rad2deg(common.np_compute_angle_between(axis, force)) <= max_angle)

    def grasps(object: Any, min_force: float = 0.5, max_angle: float = 85) -> Tensor:
        limits = (object, min_force, max_angle)
        found = presses(agent.finger1_link, 1, *limits) and presses(agent.finger2_link, -1, *limits)
        return torch.tensor([found])

    return grasps


def is_static(agent: Any) -> Callable[..., Tensor]:
    """In place of the Panda's ``is_static``: no joint of the arm moves.

    Args:
        agent: the robot.
    """
    robot = agent.robot._objs[0]

    def stands(threshold: float = 0.2) -> Tensor:
        fastest = np.abs(robot.qvel[:-2]).max()
        return torch.tensor([bool(fastest <= np.float32(threshold))])

    return stands
