"""``ModeregDiscs-v1``: a cube is placed on one of four discs, whichever."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.scripted import Stage
from modereg_integrations.maniskill.tabletop.base import Step, View
from modereg_integrations.maniskill.tabletop.kinds import (
    CUBE_HALF_SIZE,
    CubeTask,
    cube,
    disc,
    pick,
)

__all__ = ["CUBE_START", "DISCS", "DISC_RADIUS", "Discs", "placed_on"]

CUBE_START = (-0.08, 0.0)
DISCS = ((-0.18, 0.1), (-0.18, -0.1), (0.02, 0.1), (0.02, -0.1))
"""x and y of each disc's centre, in the order of the modes."""

DISC_RADIUS = 0.03
COLORS = ((0.0, 0.45, 0.7, 1), (0.9, 0.62, 0.0, 1), (0.0, 0.62, 0.45, 1), (0.8, 0.47, 0.65, 1))
TABLE_HEIGHT = CUBE_HALF_SIZE + 0.005
"""The cube is on the table where its centre is lower."""

CARRY = 0.06  # height of the tool on its way to the disc
PLACE = 0.015


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


class Discs(CubeTask):
    """Pick a cube and place it on any of four discs around it.

    Success is the cube on the table within 3 cm of a disc's centre, in the gripper or not. The mode
    is that disc: 0 near left, 1 near right, 2 far left, 3 far right, as the robot sees them.

    The discs stand still, and are not observed.
    """

    env_id = "ModeregDiscs-v1"
    mode_names = ("near left", "near right", "far left", "far right")
    max_steps = 60
    sensor_view = View(eye=(0.3, 0.0, 0.4), target=(-0.08, 0.0, 0.03))
    human_view = View(eye=(0.32, 0.15, 0.4), target=(-0.1, 0.0, 0.04))
    bodies = (
        cube(*CUBE_START),
        *(disc(f"disc_{i}", DISCS[i], DISC_RADIUS, color) for i, color in enumerate(COLORS)),
    )
    picture = Picture(
        4,
        xlim=(0.2, -0.2),
        ylim=(-0.26, 0.1),
        places=[(y, x, DISC_RADIUS) for x, y in DISCS],
        dims=(1, 0),
    )

    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """The disc that the cube lies on."""
        return placed_on(now)

    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """Success on a disc."""
        return {"success": step.found[:, 0] >= 0, "mode": step.decided[:, 0]}

    def stages(self, mode: int, start: TensorDictBase) -> list[Stage]:
        """Picks the cube, carries it over one disc and puts it down."""
        over, down = (*DISCS[mode], CARRY), (*DISCS[mode], PLACE)
        return [*pick(start), Stage(over, False, 0.015), Stage(down, False, 0.0)]
