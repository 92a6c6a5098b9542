"""The scripted expert of the maze, a waypoint follower with PD control, and its demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg.tasks.experts import Expert, demonstrate
from modereg_integrations.mujoco.env import PointMaze
from modereg_integrations.mujoco.maze_geometry import (
    GAP_HALF_WIDTH,
    GAPS,
    GOAL,
    NUM_MODES,
    RADIUS,
    ROWS_Y,
    gaps_of_modes,
)

__all__ = ["MazeExpert", "demonstrate_maze"]

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


def demonstrate_maze(
    make_env: Callable[..., PointMaze],
    num_episodes: int,
    seed: int,
    shares: Tensor | Sequence[float] | None = None,
    *,
    action_noise: float = 0.3,
    keep_failures: bool = False,
) -> Demonstrations:
    """Episodes of the expert, which executes noisy forces and notes clean ones.

    Args:
        make_env: called as ``make_env(num_envs, seed=...)``.
        num_episodes: number of episodes ``N``.
        seed: seed of everything that is random here.
        shares: ``[6]``, relative frequencies of the modes; None for equal ones.
        action_noise: standard deviation of the noise on executed actions, whose range is [-1, 1].
        keep_failures: keep the first attempts, whatever came of them. Else failed episodes are
            repeated, and all ``N`` succeed in the mode that was asked for.

    Returns:
        Demonstrations with ``observation`` ``[N, T+1, 4]`` and actions ``[N, T, 2]``.

    Raises:
        ShapeError: if ``shares`` are not six.
        ConfigurationError: if they are negative or all 0, or the noise lets episodes fail again
            and again.
    """

    def lead(env: PointMaze, modes: Tensor, generator: torch.Generator) -> Expert:
        expert = MazeExpert(modes)
        return lambda root: expert(root[OBSERVATION])

    return demonstrate(
        make_env,
        lead,
        NUM_MODES,
        num_episodes,
        seed,
        shares,
        action_noise=action_noise,
        keep_failures=keep_failures,
    )
