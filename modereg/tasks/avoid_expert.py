"""The scripted expert of Avoid (ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg.keys import OBSERVATION
from modereg.tasks.avoid_geometry import GOAL_Y, LANES, ROWS_Y, gaps_of_modes
from modereg.tasks.experts import Expert
from modereg.tasks.planar import PlanarEnv

__all__ = ["RoutePlanner", "lead_through"]

APPROACH = 0.05
"""Distance before a row at which the point has reached its lane, in metres."""

LEAVE = 0.045
"""Distance behind a row up to which the point turns by 45 degrees at most, in metres."""


class RoutePlanner:
    """Leads a point through one gap of each row, and turns to the next gap behind each row.

    Routes separate as early as the geometry allows: the point moves sideways at full speed as soon
    as it has crossed a row, and upwards as fast as it can without reaching the next row before its
    lane.

    Args:
        lanes: ``[N, 4]``, x at which each row is passed and the goal line is crossed.
        max_delta: largest step per axis, in metres.
    """

    def __init__(self, lanes: Tensor, max_delta: float) -> None:
        self._lanes = lanes
        self._max_delta = max_delta
        self._rows = lanes.new_tensor([*ROWS_Y, GOAL_Y + 1.0])

    def __call__(self, desired: Tensor, current: Tensor) -> Tensor:
        """The next step of the desired position, ``[N, 2]``, for positions ``[N, 2]``."""
        row = (current[:, 1:] > self._rows[:3]).sum(-1)  # rows behind the point, 0 to 3
        sideways = self._lanes.gather(1, row.unsqueeze(1)).squeeze(1) - desired[:, 0]
        upwards = self._rows[row] - APPROACH - desired[:, 1]
        steps = sideways.abs() / self._max_delta  # until the lane is reached
        speed = upwards.clamp_min(0) / steps.clamp_min(1.0)
        just_behind = (row > 0) & (current[:, 1] - self._rows[row - 1] < LEAVE)
        in_lane = steps < 1.0
        speed = torch.where(just_behind | in_lane, self._max_delta, speed)
        delta = torch.stack([sideways, speed], -1)
        return delta.clamp(-self._max_delta, self._max_delta)


def lead_through(
    env: PlanarEnv, modes: Tensor, generator: torch.Generator, lane_noise: float = 0.0
) -> Expert:
    """Return the expert of modes ``[N]``, see :func:`~modereg.tasks.experts.demonstrate`.

    Args:
        env: Avoid, as it was reset.
        modes: ``[N]`` int64.
        generator: source of randomness.
        lane_noise: standard deviation of an episode's offset from its lane in each row, in metres.
    """
    planner = RoutePlanner(_draw_lanes(modes, lane_noise, generator), env.max_delta)
    return lambda root: planner(root[OBSERVATION][:, :2], root[OBSERVATION][:, -2:])


def _draw_lanes(modes: Tensor, lane_noise: float, generator: torch.Generator) -> Tensor:
    gaps = gaps_of_modes(modes)
    lanes = torch.stack([torch.tensor(lane)[gaps[:, i]] for i, lane in enumerate(LANES)], -1)
    lanes = lanes + lane_noise * torch.randn(lanes.shape, generator=generator)
    return torch.cat([lanes, lanes[:, -1:]], -1)  # straight on to the goal line
