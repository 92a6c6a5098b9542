"""The maze as a single Gymnasium environment, stepped by ``mj_step``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from modereg_integrations.mujoco.maze_geometry import (
    START,
    SUBSTEPS,
    make_mjcf,
    mark_gaps,
    modes_of_gaps,
    reaches_goal,
)
from modereg_integrations.mujoco.simulation import import_mujoco

__all__ = ["PointMazeGym"]


class PointMazeGym(gymnasium.Env):
    """One ball that forces push through the maze, registered as ``ModeregPointMaze-v0``.

    Observation ``[4]``: velocity in metres a second, then position in metres. Action ``[2]``: force
    in shares of the largest, in [-1, 1]. The reward is 1 at the goal, which terminates; the info
    has ``success`` and ``mode`` (-1 until decided). The registered limit truncates, as Gymnasium's
    do; :class:`~modereg_integrations.mujoco.env.PointMaze` is the batched form.

    Args:
        start_noise: half-width of the uniform noise on the start, in metres.

    Raises:
        MissingDependencyError: if MuJoCo is not installed.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, start_noise: float = 0.02) -> None:
        self._mujoco = import_mujoco()
        self._model = self._mujoco.MjModel.from_xml_string(make_mjcf())
        self._data = self._mujoco.MjData(self._model)
        self._start_noise = start_noise
        self._gaps = np.full(2, -1)
        self.observation_space = Box(-2.0, 2.0, (4,), np.float32)  # beyond what occurs
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode near the start, at rest."""
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self._model, self._data)
        noise = self._start_noise * self.np_random.uniform(-1, 1, 2)
        self._data.qpos[:] = START + noise
        self._gaps = np.full(2, -1)
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push for one environment step."""
        self._data.ctrl[:] = action
        self._mujoco.mj_step(self._model, self._data, nstep=SUBSTEPS)
        self._gaps = mark_gaps(self._gaps, self._data.qpos)
        info = self._info()
        return self._observe(), float(info["success"]), info["success"], False, info

    def _observe(self) -> np.ndarray:
        return np.concatenate([self._data.qvel, self._data.qpos]).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        success = bool(reaches_goal(self._data.qpos))
        return {"success": success, "mode": int(modes_of_gaps(self._gaps))}
