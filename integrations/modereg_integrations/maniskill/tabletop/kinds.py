"""Two kinds of tasks, a cube that is picked and a stick's tip, and the parts they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg_integrations.maniskill.scripted import Stage
from modereg_integrations.maniskill.tabletop.base import Body, TabletopTask

__all__ = ["CUBE_HALF_SIZE", "GREEN", "GREY", "CubeTask", "TipTask", "cube", "disc", "pick", "side"]

GREY, GREEN = (0.3, 0.3, 0.4, 1.0), (0.2, 0.8, 0.3, 1.0)
UPRIGHT = (0.5**0.5, 0.0, 0.5**0.5, 0.0)
"""Quaternion of a cylinder that stands, real part first."""

CUBE_HALF_SIZE = 0.02


class CubeTask(TabletopTask):
    """A task of a cube, whose position decides.

    State observation ``[N, 10]``: opening of the gripper, position of the tool, position of the
    cube, from the tool to the cube. Orientations barely change and are left out.
    """

    shown = "cube_position"
    feature_noise = 0.02

    def watch(self, sim: Any) -> Tensor:
        """Position of the cube, ``[N, 3]``."""
        position: Tensor = sim.bodies["cube"].pose.p
        return position

    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """Tool and cube."""
        tool = sim.agent.tcp.pose.p
        if not with_state:
            return {"tcp_position": tool}
        position = info["cube_position"]
        return {"tcp_position": tool, "cube_position": position, "tcp_to_cube": position - tool}


class TipTask(TabletopTask):
    """A task of the tip of a stick that the robot holds."""

    shown = "tip_position"
    feature_noise = 0.03
    robot = "panda_stick"

    def watch(self, sim: Any) -> Tensor:
        """Position of the tip, ``[N, 3]``."""
        tip: Tensor = sim.agent.tcp.pose.p
        return tip


def cube(x: float, y: float) -> Body:
    """The red cube, about a place on the table."""
    options = {"half_size": CUBE_HALF_SIZE, "color": (0.9, 0.2, 0.2, 1.0)}
    return Body("cube", "cube", (x, y, CUBE_HALF_SIZE), options, noisy=2)


def cylinder(
    name: str, place: tuple[float, float], radius: float, height: float, color: Any, **options: Any
) -> Body:
    """A cylinder that stands on the table and is never moved."""
    options |= {"radius": radius, "half_length": height / 2, "color": color, "body_type": "static"}
    return Body(name, "cylinder", (*place, height / 2), options, UPRIGHT)


def disc(name: str, place: tuple[float, float], radius: float, color: Any) -> Body:
    """A mark on the table."""
    return cylinder(name, place, radius, 2e-3, color, add_collision=False)


def pick(start: TensorDictBase) -> list[Stage]:
    """How the gripper comes to hold the cube, from a start of batch size ``[1]``."""
    x, y, _ = start["cube_position"][0].tolist()
    above, grasp = (x, y, 0.08), (x, y, 0.02)
    return [Stage(above, True, 0.02), Stage(grasp, True, 0.008), Stage(grasp, False, 1.0, steps=3)]


def side(before: Tensor, now: Tensor, x: float, half_width: float) -> Tensor:
    """On which side of an obstacle a straight path passed, by where it meets the obstacle's plane.

    Args:
        before: ``[*B, 3]``, positions before a step.
        now: after it.
        x: of the obstacle's plane.
        half_width: of the obstacle, about y = 0.

    Returns:
        ``[*B]`` int64: 0 left, 1 right, 2 within the obstacle's width, however high, and -1 where
        the plane was not crossed from the robot's side.
    """
    share = (x - before[..., 0]) / (now[..., 0] - before[..., 0]).clamp(min=1e-9)
    y = torch.lerp(before[..., 1], now[..., 1], share)
    passed = torch.where(y.abs() <= half_width, 2, torch.where(y > 0, 0, 1))
    crossed = (before[..., 0] < x) & (now[..., 0] >= x)
    return torch.where(crossed, passed, -1)
