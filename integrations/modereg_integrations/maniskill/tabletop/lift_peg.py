"""``ModeregLiftPeg-v1``: a peg that lies on the table is stood on one of its two ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.keys import OBSERVATION
from modereg.tasks.experts import Expert
from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.tabletop.base import Body, Step, TabletopTask, View
from modereg_integrations.maniskill.tabletop.poses import Frame, PosePlan, PoseStage, facing

__all__ = ["HALF_LENGTH", "LiftPeg", "standing_mode"]

HALF_LENGTH = 0.12
HALF_WIDTH = 0.025
TILT_TOLERANCE = 0.08
HEIGHT_TOLERANCE = 0.005
HOVER = 0.08
CLOSING_STEPS = 3
LIFT = 0.1  # how far above its place the peg turns
DOWN = facing(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, -1.0]))

ENDINGS = (
    (0.05, 1.0, 60.0, (-0.05, 0.15)),
    (0.0, -1.0, -120.0, (-0.1, -0.1)),
)
"""For each mode: how far towards the blue end the peg is grasped, whether the hand's x axis ends
up or down, the palm's heading in degrees from x, and where the peg stands."""

PEG = Body(
    "peg",
    "twocolor_peg",
    (0.0, 0.0, HALF_WIDTH),
    {
        "length": HALF_LENGTH,
        "width": HALF_WIDTH,
        "color_1": (176 / 255, 14 / 255, 14 / 255, 1.0),
        "color_2": (12 / 255, 42 / 255, 160 / 255, 1.0),
        "body_type": "dynamic",
    },
    quaternion=(0.5**0.5, 0.5**0.5, 0.0, 0.0),  # it lies along x
    noisy=2,
)


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


class LiftPeg(TabletopTask):
    """Take a peg that lies on the table and stand it up, its blue or its red end above.

    Success is a peg upright to .08 rad with its lower end within 5 mm of the table, in the gripper
    or not; its mode is the end above, 0 blue and 1 red. ManiSkill's ``LiftPegUpright-v1`` asks for
    an Euler angle instead, which a peg held flat along y at the right height has as well, while one
    that stands turned about its axis may lack it; its ``start_noise`` is 0.1, which the expert here
    knows too. The time limit is longer than its, as the hand has to turn by 120 degrees, at about 3
    degrees a step.

    State observation ``[N, 16]``: opening of the gripper, position of the tool, x and z axis of
    the hand, position of the peg, unit vector from its red end to its blue one. The discoverer sees
    the position of the blue end.
    """

    env_id = "ModeregLiftPeg-v1"
    mode_names = ("blue up", "red up")
    max_steps = 80
    shown = "peg_tip"
    feature_noise = 0.03
    control_mode = "pd_ee_delta_pose"
    qpos_noise = 0.01
    sensor_view = View(eye=(0.5, 0.0, 0.45), target=(-0.05, 0.0, 0.1))
    human_view = View(eye=(0.65, 0.3, 0.5), target=(-0.1, 0.0, 0.15))
    bodies = (PEG,)
    picture = Picture(
        2, xlim=(0.4, -0.4), ylim=(-0.02, 0.45), lines=[(0.0, "-"), (2 * HALF_LENGTH, "--")]
    )  # the table, and where the end is when blue is up

    def watch(self, sim: Any) -> Tensor:
        """Centre and axis of the peg, ``[N, 6]``."""
        pose = sim.bodies["peg"].pose
        return torch.cat([pose.p, pose.to_transformation_matrix()[:, :3, 0]], dim=-1)

    def show(self, now: Tensor) -> Tensor:
        """The blue end."""
        return now[:, :3] + HALF_LENGTH * now[:, 3:]

    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """The end that is up."""
        return standing_mode(now[..., :3], now[..., 3:])

    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """Success while the peg stands."""
        return {"success": step.found[:, 0] >= 0, "mode": step.decided[:, 0]}

    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """Hand and peg."""
        tool, peg = sim.agent.tcp.pose, self.watch(sim)
        hand = tool.to_transformation_matrix()
        seen = {"tcp_position": tool.p, "hand_x": hand[:, :3, 0], "hand_z": hand[:, :3, 2]}
        if not with_state:
            return seen
        return {**seen, "peg_position": peg[:, :3], "peg_axis": peg[:, 3:]}

    def expert(self, mode: int, start: TensorDictBase) -> Expert:
        """Grasps the peg, turns it in the air and stands it up; deterministic in what it sees.

        To get blue up it grasps towards the blue end and turns the palm to the front left; to get
        red up it grasps the middle and turns the palm to the back right. In both the hand's x axis,
        which lies along the peg, ends upright.

        Args:
            mode: 0 blue up, 1 red up.
            start: what the environment shows at the start, batch size ``[1]``.

        Raises:
            ConfigurationError: for another mode.
        """
        self._check(mode)
        offset, up, heading, (x, y) = ENDINGS[mode]
        pick_x, pick_y, _ = start[OBSERVATION][0, 10:13].tolist()
        pick = (pick_x + offset, pick_y, HALF_WIDTH)
        turned = _turned(up, heading)
        plan = PosePlan(
            [
                PoseStage("tool", (*pick[:2], HOVER), DOWN, True, 0.025),
                PoseStage("tool", pick, DOWN, True, 0.01),
                PoseStage("tool", pick, DOWN, False, 1.0, steps=CLOSING_STEPS),
                PoseStage("peg", (x, y, HALF_LENGTH + LIFT), turned, False, 0.05, 0.15),
                PoseStage("peg", (x, y, HALF_LENGTH), turned, False, 0.0),
            ]
        )

        def act(td: TensorDictBase) -> Tensor:
            seen = td[OBSERVATION][0]
            tool = Frame(seen[1:4], facing(seen[4:7], seen[7:10]))
            return plan({"tool": tool, "peg": _held(seen[10:13], seen[13:16], tool)})

        return act


def _held(position: Tensor, axis: Tensor, tool: Frame) -> Frame:
    """The peg's frame: the hand's, turned so that x lies along the peg, however it slipped."""
    palm = tool.rotation[:, 2]
    across = palm - (palm @ axis) * axis
    return Frame(position, facing(axis, across / across.norm().clamp(min=1e-6)))


def _turned(up: float, heading: float) -> Tensor:
    """A hand whose palm looks to the horizon and whose x axis is upright."""
    angle = math.radians(heading)
    palm = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    return facing(torch.tensor([0.0, 0.0, up]), palm)
