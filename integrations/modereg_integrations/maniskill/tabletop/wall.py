"""``ModeregWall-v1``: a cube is brought past a wall, on its left, on its right, or over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.scripted import Stage
from modereg_integrations.maniskill.tabletop.base import Body, Step, View
from modereg_integrations.maniskill.tabletop.kinds import (
    CUBE_HALF_SIZE,
    GREEN,
    GREY,
    CubeTask,
    cube,
    disc,
    pick,
    side,
)

__all__ = ["GOAL", "GOAL_RADIUS", "WALL_HALF_SIZE", "WALL_X", "Wall"]

CUBE_X = -0.16
WALL_X = -0.06
WALL_HALF_SIZE = (0.01, 0.07, 0.04)
GOAL = (0.06, 0.0)
GOAL_RADIUS = 0.03
GOAL_HEIGHT = 0.08
SIDE = WALL_HALF_SIZE[1] + 0.07  # lane beside the wall, clear of it by the cube and the fingers
ABOVE = 2 * WALL_HALF_SIZE[2] + 0.06  # lane over the wall
CARRY = 0.05  # height of the tool while it carries the cube beside the wall


class Wall(CubeTask):
    """Pick a cube in front of a wall and bring it to a disc behind the wall.

    Success is the cube over the disc and no higher than the wall, in the gripper or not. The mode
    is read off where the cube first crossed the wall's plane: 0 left, 1 right, 2 over.

    State observation ``[N, 13]``: opening of the gripper, position of the tool, position of the
    cube, from the tool to the cube, from the cube to the goal (orientations barely change and are
    left out).
    """

    env_id = "ModeregWall-v1"
    mode_names = ("left", "right", "over")
    max_steps = 60
    sensor_view = View(eye=(0.25, 0.2, 0.3), target=(-0.06, 0.0, 0.04))
    human_view = View(eye=(0.4, 0.4, 0.5), target=(-0.08, 0.0, 0.05))
    bodies = (
        cube(CUBE_X, 0.0),
        Body(
            "wall",
            "box",
            (WALL_X, 0.0, WALL_HALF_SIZE[2]),
            {"half_sizes": WALL_HALF_SIZE, "color": GREY, "body_type": "static"},
        ),
        disc("goal", GOAL, GOAL_RADIUS, GREEN),
    )
    picture = Picture(
        3,
        xlim=(0.22, -0.22),
        ylim=(-0.01, 0.2),
        places=[(0.0, WALL_HALF_SIZE[2], *WALL_HALF_SIZE[1:])],
        lines=[(0.0, "-")],
    )

    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """The mode, where the wall's plane was crossed from the robot's side."""
        return side(before, now, WALL_X, WALL_HALF_SIZE[1])

    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """Success over the goal."""
        mode = step.decided[:, 0]
        off = step.now[:, :2] - torch.tensor(GOAL, device=step.now.device)
        low = step.now[:, 2] < GOAL_HEIGHT
        return {"success": (off.norm(dim=-1) < GOAL_RADIUS) & low & (mode >= 0), "mode": mode}

    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """Tool, cube and goal."""
        seen = super().observe(sim, info, with_state=with_state)
        if not with_state:
            return seen
        position = info["cube_position"]
        goal = torch.tensor([*GOAL, CUBE_HALF_SIZE], device=position.device)
        return {**seen, "cube_to_goal": goal - position}

    def stages(self, mode: int, start: TensorDictBase) -> list[Stage]:
        """Picks the cube and carries it along the lane of one mode."""
        if mode == 2:
            lane = [(CUBE_X, 0.0, ABOVE), (GOAL[0] - 0.02, 0.0, ABOVE)]
        else:
            y = SIDE if mode == 0 else -SIDE
            lane = [(CUBE_X + 0.02, y, CARRY), (WALL_X + 0.06, y, CARRY)]
        carry = [Stage(point, False, 0.03) for point in lane]
        return [*pick(start), *carry, Stage((*GOAL, CARRY), False, 0.0)]
