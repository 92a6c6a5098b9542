"""The physics of the maze: MuJoCo's model, and a step of many balls at once."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from modereg.errors import MissingDependencyError
from modereg_integrations.mujoco.maze_geometry import SUBSTEPS, Floats, make_mjcf

__all__ = ["BallPhysics", "import_mujoco"]


def import_mujoco() -> ModuleType:
    """Import and return ``mujoco``.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import mujoco
        import mujoco.rollout
    except ImportError as error:
        raise MissingDependencyError(
            f"the maze needs mujoco, which does not import ({error}); "
            "install it with `pip install modereg[mujoco]`."
        ) from error
    return mujoco


class BallPhysics:
    """Steps any number of balls, each alone in its maze, on one thread.

    MuJoCo's ``rollout`` steps the rows one after the other in C from the states it is given, so
    that nothing is remembered between steps. One step of the environment is ``SUBSTEPS`` steps of
    the physics under a constant force.

    Raises:
        MissingDependencyError: if MuJoCo is not installed.
    """

    def __init__(self) -> None:
        mujoco = import_mujoco()
        self._model = mujoco.MjModel.from_xml_string(make_mjcf())
        self._data = mujoco.MjData(self._model)

    def step(self, state: Floats, action: Floats) -> Floats:
        """Return the states after one environment step.

        Args:
            state: ``[N, 4]``, x and y in metres, then their velocities in metres a second.
            action: ``[N, 2]``, share of the largest force per axis; MuJoCo clips it to [-1, 1].

        Returns:
            ``[N, 4]``.
        """
        timed = np.concatenate([np.zeros((len(state), 1)), state], 1)  # [N, 1 + 2 + 2]
        control = np.repeat(action[:, None].astype(np.float64), SUBSTEPS, 1)  # [N, SUBSTEPS, 2]
        rollout = import_mujoco().rollout.rollout
        states: Floats = rollout(self._model, self._data, timed, control)[0]
        return states[:, -1, 1:]
