"""The physics of FrankaKitchen: its model, a step of one row, and what its sensors add."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from modereg.errors import MissingDependencyError
from modereg_integrations.mujoco.maze_geometry import Floats
from modereg_integrations.mujoco.simulation import import_mujoco

__all__ = ["ARM", "CONTROL_STEP", "LARGEST", "START", "SUBSTEPS", "KitchenPhysics", "find_assets"]

SUBSTEPS = 40
CONTROL_STEP = 0.08
"""Seconds of an environment step."""
LARGEST = 2.0
"""Radians (of the gripper metres) a second of an action of 1."""
ARM = 9
"""Joints of the robot, the first ones: seven of the arm, two fingers."""
ROBOT_NOISE, OBJECT_NOISE = 0.01, 0.0005
"""Shares of the amplitudes in the robot's configuration."""

START = (
    0.148388023, -1.76848573, 1.84390296, -2.4768576, 0.260252026, 0.712533105, 1.59515394,
    0.0479267505, 0.0371350919,
    -2.66279850e-4, -5.18043486e-5, 3.12877220e-5, -4.51199853e-5, -3.90842156e-6, -4.22629655e-5,
    6.28065475e-5, 4.04984708e-5, 4.62730939e-4, -2.26906415e-4, -4.65501369e-4, -6.44129196e-3,
    -1.77048263e-3, 1.08009684e-3,
    -0.26939744, 0.350383255, 1.61944683, 1.00618764, 4.06395120e-3, -6.62095997e-3,
    -2.68278933e-4,
)  # fmt: skip
"""``qpos`` at every reset: the robot's joints, burners, lights, doors, and the kettle's pose."""


def find_assets() -> Path:
    """Return the folder of FrankaKitchen's models, without importing what has them.

    Raises:
        MissingDependencyError: if gymnasium-robotics is not installed, or has it elsewhere.
    """
    spec = find_spec("gymnasium_robotics")
    found = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in found:
        assets = Path(folder) / "envs" / "assets" / "kitchen_franka"
        if assets.is_dir():
            return assets
    raise MissingDependencyError(
        "the kitchen needs the models of gymnasium-robotics 1.4, which "
        + (f"are not in {found}" if found else "is not installed")
        + "; install it with `pip install modereg[kitchen]`."
    )


class KitchenPhysics:
    """FrankaKitchen-v1's physics, for any number of rows whose states are kept outside.

    MuJoCo steps the row that was loaded last, so that nothing but its state is remembered, the
    solver's warm start included. What FrankaKitchen-v1 computes in Python (the limits of the
    control, the noise of the sensors) is computed here alike; its own class fails with MuJoCo 3.17,
    which no longer finds ``numpy.int32`` among its enumerations.

    Raises:
        MissingDependencyError: if MuJoCo or gymnasium-robotics is not installed.
    """

    def __init__(self) -> None:
        self._mujoco = import_mujoco()
        assets = find_assets()
        path = assets / "kitchen_assets" / "kitchen_env_model.xml"
        self.model = self._mujoco.MjModel.from_xml_path(str(path))
        self.data = self._mujoco.MjData(self.model)
        self._hand = self.model.site("end_effector").id
        self._kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        limits, noise = _read_robot(assets / "franka_assets" / "franka_config.xml", self.model.nv)
        self.limits = limits[:ARM]
        robot, objects = ROBOT_NOISE * noise[:ARM], OBJECT_NOISE * noise[ARM:]
        # Positions of objects are one more than velocities, for the kettle's quaternion.
        shifted = OBJECT_NOISE * noise[ARM - 1 :]
        self._noise = np.concatenate([robot[:, 0], robot[:, 1], shifted[:, 0], objects[:, 1]])

    def start(self, qpos: Sequence[float] | Floats = START) -> Floats:
        """Return the state at rest at positions ``[30]``, ``[S]``, and leave it loaded."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self._mujoco.mj_forward(self.model, self.data)
        return self._state()

    def load(self, state: Floats) -> None:
        """Load a state ``[S]`` and compute what follows from it: places, Jacobians, gravity."""
        self._mujoco.mj_setState(self.model, self.data, state, self._kind)
        self._mujoco.mj_forward(self.model, self.data)

    def step(self, state: Floats, action: Floats, felt: Floats) -> Floats:
        """Return the state after one environment step, and leave it loaded.

        Args:
            state: ``[S]``.
            action: ``[9]``, velocities of the joints in shares of 2 a second, clipped to [-1, 1].
            felt: ``[9]``, positions of the joints as they were observed, from which they move.
        """
        self._mujoco.mj_setState(self.model, self.data, state, self._kind)
        target = felt + LARGEST * CONTROL_STEP * np.clip(action, -1.0, 1.0)
        self.data.ctrl[:] = np.clip(target, self.limits[:, 0], self.limits[:, 1])
        self._mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)
        return self._state()

    def observe(self, generator: np.random.Generator) -> Floats:
        """Return what the sensors say of what is loaded, ``[59]``.

        Positions and velocities of the robot's joints, then those of the objects, with uniform
        noise.
        """
        qpos, qvel = self.data.qpos, self.data.qvel
        clean = np.concatenate([qpos[:ARM], qvel[:ARM], qpos[ARM:], qvel[ARM:]])
        return clean + self._noise * generator.uniform(-1.0, 1.0, clean.shape)

    def hand(self) -> Floats:
        """Return where the hand is in what is loaded, x, y and z in metres, ``[3]``."""
        self._mujoco.mj_kinematics(self.model, self.data)
        place: Floats = self.data.site_xpos[self._hand].copy()
        return place

    def jacobian(self) -> Floats:
        """Return how the hand moves and turns with the arm's joints, ``[6, 7]``."""
        moves, turns = np.zeros((2, 3, self.model.nv))
        self._mujoco.mj_jacSite(self.model, self.data, moves, turns, self._hand)
        return np.concatenate([moves, turns])[:, :7]

    def _state(self) -> Floats:
        state = np.empty(self._mujoco.mj_stateSize(self.model, self._kind))
        self._mujoco.mj_getState(self.model, self.data, state, self._kind)
        return state


def _read_robot(path: Path, joints: int) -> tuple[Floats, Floats]:
    """Return bounds of positions ``[J, 2]``, and amplitudes of position and velocity ``[J, 2]``."""
    entries = list(ElementTree.parse(path).getroot())[:joints]
    limits = [entry.attrib["pos_bound"].split() for entry in entries]
    noise = [(entry.attrib["pos_noise_amp"], entry.attrib["vel_noise_amp"]) for entry in entries]
    return np.array(limits, dtype=np.float64), np.array(noise, dtype=np.float64)
