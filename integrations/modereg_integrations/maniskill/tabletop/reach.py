"""``ModeregReach-v1``: the tool reaches a goal behind an obstacle, on its left or on its right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.keys import OBSERVATION
from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.scripted import Stage
from modereg_integrations.maniskill.tabletop.base import Body, Step, View
from modereg_integrations.maniskill.tabletop.kinds import GREEN, GREY, TipTask, side

__all__ = ["GOAL_RADIUS", "OBSTACLE_HALF_SIZE", "OBSTACLE_X", "Reach"]

TIP_HEIGHT = 0.08
OBSTACLE_X = -0.03
OBSTACLE_HALF_SIZE = (0.02, 0.05, 0.1)
GOAL = (0.1, 0.0, 0.08)
GOAL_RADIUS = 0.025
TOUCH = 0.01  # newtons
OVER = 2  # a side that is no mode
LANE = ((OBSTACLE_X - 0.06, 0.03), (OBSTACLE_X + 0.06, 0.03))  # x, and how near is near enough
SIDE = OBSTACLE_HALF_SIZE[1] + 0.14  # lane beside the obstacle, clear of it by the hand


class Reach(TipTask):
    """Bring the tip of a stick to a goal behind an obstacle.

    The goal moves by a centimetre too. Success is the tip in the goal. Touching the obstacle, with
    any part of the robot, ends the episode as a failure, and so does passing over it; it is so high
    that the hand has to go around it as well. The mode is the side on which the tip first crossed
    the obstacle's plane: 0 left, 1 right.

    State observation ``[N, 6]``: position of the tip, and from the tip to the goal.
    """

    env_id = "ModeregReach-v1"
    mode_names = ("left", "right")
    max_steps = 40
    start_qpos = (0.0, 0.1057, 0.0, -2.5519, 0.0, 2.6576, 0.7854)  # the tip at x = -.16
    sensor_view = View(eye=(0.4, 0.0, 0.5), target=(-0.06, 0.0, 0.05))
    human_view = View(eye=(0.5, 0.0, 0.55), target=(-0.08, 0.0, 0.1))
    bodies = (
        Body(
            "obstacle",
            "box",
            (OBSTACLE_X, 0.0, OBSTACLE_HALF_SIZE[2]),
            {"half_sizes": OBSTACLE_HALF_SIZE, "color": GREY, "body_type": "kinematic"},
        ),
        Body(
            "goal",
            "sphere",
            GOAL,
            {
                "radius": GOAL_RADIUS,
                "color": GREEN,
                "body_type": "kinematic",
                "add_collision": False,
            },
            noisy=3,
        ),
    )
    picture = Picture(
        2,
        xlim=(0.3, -0.3),
        ylim=(-0.25, 0.2),
        obstacles=[(0.0, OBSTACLE_X, OBSTACLE_HALF_SIZE[1], OBSTACLE_HALF_SIZE[0])],
        goals=[(GOAL[1], GOAL[0], GOAL_RADIUS)],
        dims=(1, 0),
    )

    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """The side, or over the obstacle."""
        return side(before, now, OBSTACLE_X, OBSTACLE_HALF_SIZE[1])

    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """Success in the goal, failure by a touch or over the obstacle."""
        passed = step.decided[:, 0]
        touched = sim.bodies["obstacle"].get_net_contact_forces().norm(dim=-1) > TOUCH
        fail = touched | (passed == OVER)
        near = (sim.bodies["goal"].pose.p - step.now).norm(dim=-1) < GOAL_RADIUS
        mode = torch.where(passed == OVER, -1, passed)
        return {"success": near & (mode >= 0) & ~fail, "fail": fail, "mode": mode}

    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """Tip and goal."""
        tip = info["tip_position"]
        return {"tip_position": tip, "tip_to_goal": sim.bodies["goal"].pose.p - tip}

    def stages(self, mode: int, start: TensorDictBase) -> list[Stage]:
        """Moves the tip along the lane of one side and to the goal."""
        seen = start[OBSERVATION][0]
        goal_x, goal_y, goal_z = (seen[:3] + seen[3:]).tolist()
        y = SIDE if mode == 0 else -SIDE
        lane = [Stage((x, y, TIP_HEIGHT), False, tolerance) for x, tolerance in LANE]
        return [*lane, Stage((goal_x, goal_y, goal_z), False, 0.0)]
