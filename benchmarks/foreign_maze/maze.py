"""Somebody else's maze: PointMaze of gymnasium-robotics with a map of their own, six ways through.

A ball is pushed by forces from the left to the goal on the right, past a wall with three gaps and
then one with two, and by gusts. Everything else is PointMaze's: observations are the goal
dictionary, float64, walls stop the ball and end nothing, and the info has ``success``. Who has not
arrived after 150 steps, of a twentieth of a second each, has failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

MAP = [
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0, 1, 0, 0, 1],
    [1, 0, 0, 1, 0, 0, 0, 0, 0, 1],
    [1, "r", 0, 0, 0, 0, 1, 0, "g", 1],
    [1, 0, 0, 1, 0, 0, 0, 0, 0, 1],
    [1, 0, 0, 0, 0, 0, 1, 0, 0, 1],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
]
WALLS = (-1.5, 1.5)  # x of their middles
GAPS = (np.array([2.0, 0.0, -2.0]), np.array([1.0, -1.0]))  # y of their middles
FRAME_SKIP = 5  # 20 actions a second


class SixRoutes(gymnasium.Wrapper):
    """Gusts on the forces, and on request the route in the info.

    Args:
        env: the maze.
        gusts: standard deviation of what is added to the forces, which are in [-1, 1].
        with_route: whether the info says by which gaps the ball came, 2 * first + second, -1 until
            it is through both walls.
    """

    def __init__(self, env: PointMazeEnv, gusts: float, with_route: bool) -> None:
        super().__init__(env)
        self._gusts, self._with_route = gusts, with_route

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Put the ball at its start and the goal at its place, give or take a quarter."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._through: list[int] = []
        return observation, self._labelled(observation, info)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Push the ball, and so does the wind."""
        pushed = action + self._gusts * self.env.unwrapped.np_random.standard_normal(2)
        observation, reward, terminated, truncated, info = self.env.step(pushed)
        return observation, reward, terminated, truncated, self._labelled(observation, info)

    def _labelled(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> dict[str, Any]:
        if not self._with_route:
            return info
        x, y = observation["achieved_goal"]
        if len(self._through) < 2 and x > WALLS[len(self._through)]:
            self._through.append(int(np.abs(GAPS[len(self._through)] - y).argmin()))
        decided = len(self._through) == 2
        return info | {"route": 2 * self._through[0] + self._through[1] if decided else -1}


def make(gusts: float = 0.3, with_route: bool = False, **options: Any) -> SixRoutes:
    """Make the maze, with a force that is kept for a twentieth of a second."""
    env = PointMazeEnv(maze_map=MAP, continuing_task=False, **options)
    env.point_env.frame_skip = FRAME_SKIP
    Path(env.tmp_xml_file_path).unlink()  # it leaves one behind for every maze
    return SixRoutes(env, gusts, with_route)


gymnasium.register("SixRoutes-v0", make, max_episode_steps=150)
