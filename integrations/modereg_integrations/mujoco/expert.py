"""The scripted expert of the maze, a waypoint follower with PD control."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg.keys import OBSERVATION
from modereg.tasks.experts import Expert
from modereg_integrations.mujoco.env import PointMaze
from modereg_integrations.mujoco.maze_geometry import (
    GAP_HALF_WIDTH,
    GAPS,
    GOAL,
    RADIUS,
    ROWS_Y,
    gaps_of_modes,
)

__all__ = ["MazeExpert", "lead_through"]

APPROACH = 0.11
"""Distance before a wall at which the ball waits for its lane, in metres."""
LEAVE = 0.1
"""Distance behind a wall at which the ball turns to what comes next, in metres."""
STIFFNESS = 12.0
"""Force in shares of the largest, per metre of error."""
BRAKE = 1.5
"""Force in shares of the largest, per metre a second."""


class MazeExpert:
    """Leads a ball through one gap of each wall to the goal; it reads the observation alone.

    Below a wall it aims at the lane; once there it goes through, and behind the wall it turns to
    the next.

    Args:
        modes: ``[N]`` int64.
    """

    def __init__(self, modes: Tensor) -> None:
        gaps = torch.from_numpy(gaps_of_modes(modes.numpy()))
        lanes = [torch.tensor(centres)[gaps[:, row]] for row, centres in enumerate(GAPS)]
        self._lanes = torch.stack([*lanes, torch.full_like(lanes[0], GOAL[0])], -1)  # [N, 3]
        self._rows = torch.tensor([*ROWS_Y, GOAL[1]])

    def __call__(self, observation: Tensor) -> Tensor:
        """Returns actions ``[N, 2]`` in [-1, 1] for observations ``[N, 4]``."""
        velocity, position = observation.split(2, -1)
        x, y = position.unbind(-1)
        row = (y.unsqueeze(-1) > self._rows[:2] + LEAVE).sum(-1)  # walls behind the ball
        lane = self._lanes.gather(1, row.unsqueeze(1)).squeeze(1)
        wall = self._rows[row]
        inside = (x - lane).abs() < GAP_HALF_WIDTH - RADIUS
        through = torch.where(row < 2, wall + 2 * LEAVE, wall)
        height = torch.where(inside | (row == 2), through, wall - APPROACH)
        error = torch.stack([lane, height], -1) - position
        return (STIFFNESS * error - BRAKE * velocity).clamp(-1, 1)


def lead_through(env: PointMaze, modes: Tensor, generator: torch.Generator) -> Expert:
    """Return the expert of modes ``[N]``, see :func:`~modereg.tasks.experts.demonstrate`."""
    expert = MazeExpert(modes)
    return lambda root: expert(root[OBSERVATION])
