"""Poses of ManiSkill's bodies, and the Panda's grasp, by numpy instead of batched torch.

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
from mani_skill.utils import common
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg_integrations.maniskill.fast import quaternions

__all__ = ["bodies", "faster_class", "is_grasping", "raw_pose"]


def raw_pose(pose: sapien.Pose) -> quaternions.Vector:
    """A SAPIEN pose as ``[7]`` float32, position before quaternion."""
    return np.concatenate((pose.p, pose.q))


@cache
def faster_class(cls: Any, attribute: str) -> type:
    """A subclass of ManiSkill's ``Link`` or ``Actor`` that reads its pose faster.

    Args:
        cls: the class.
        attribute: where one of its SAPIEN objects has its pose: ``"entity_pose"`` or ``"pose"``.
    """
    pose_of = attrgetter(attribute)

    def read(self: Any) -> Pose:
        rows = [raw_pose(pose_of(body)) for body in self._objs]
        raw = rows[0][None] if len(rows) == 1 else np.stack(rows)
        return Pose(raw_pose=torch.from_numpy(raw))

    return type(cls.__name__, (cls,), {"pose": property(read, cls.pose.fset)})


def bodies(scene: Any) -> Iterator[tuple[Any, str]]:
    """The actors and links of a ManiSkill scene, each with its SAPIEN objects' pose attribute."""
    for actor in (*scene.actors.values(), *scene.actor_views.values()):
        yield actor, "pose"
    for articulation in (*scene.articulations.values(), *scene.articulation_views.values()):
        for link in articulation.links:
            yield link, "entity_pose"


def is_grasping(agent: Any) -> Callable[..., Tensor]:
    """In place of the Panda's ``is_grasping``: both fingers press, each roughly along its way."""
    impulses, timestep = agent.scene.get_pairwise_contact_impulses, agent.scene.px.timestep

    def presses(finger: Any, sign: int, body: Any, min_force: float, max_angle: float) -> bool:
        force = impulses(finger, body)[0].numpy() / np.float32(timestep)
        if np.linalg.norm(force) < min_force:
            return False
        axis = sign * quaternions.rotation_matrix(finger._objs[0].entity_pose.q)[:, 1]
        return bool(np.rad2deg(common.np_compute_angle_between(axis, force)) <= max_angle)

    def grasps(object: Any, min_force: float = 0.5, max_angle: float = 85) -> Tensor:
        limits = (object, min_force, max_angle)
        found = presses(agent.finger1_link, 1, *limits) and presses(agent.finger2_link, -1, *limits)
        return torch.tensor([found])

    return grasps
