from __future__ import annotations

import subprocess
import sys

import mujoco
import numpy as np
import pytest

from modereg.errors import MissingDependencyError
from modereg_integrations.mujoco.maze_geometry import (
    DAMPING,
    HALF_WIDTH,
    MASS,
    MAX_FORCE,
    RADIUS,
    SUBSTEPS,
    TIMESTEP,
    make_mjcf,
)
from modereg_integrations.mujoco.simulation import BallPhysics, import_mujoco


def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    state = np.concatenate(
        [generator.uniform(-0.7, 0.7, (rows, 2)), generator.uniform(-1, 1, (rows, 2))], 1
    )
    return state, generator.uniform(-1.5, 1.5, (rows, 2))


def test_far_from_walls_the_ball_has_inertia_and_damping() -> None:
    """Newton's law, velocity by the implicit Euler rule and position by the new velocity."""
    force = np.array([0.5, -1.0])
    position, velocity = np.array([0.1, 0.0]), np.array([-0.2, 0.4])
    after = BallPhysics().step(np.concatenate([position, velocity])[None], force[None])
    for _ in range(SUBSTEPS):
        push = velocity + TIMESTEP * MAX_FORCE * force / MASS
        velocity = push / (1 + TIMESTEP * DAMPING / MASS)
        position = position + TIMESTEP * velocity
    np.testing.assert_allclose(after[0], [*position, *velocity], atol=1e-10)


def test_rows_are_stepped_as_mj_step_would_one_by_one() -> None:
    model = mujoco.MjModel.from_xml_string(make_mjcf())
    physics = BallPhysics()
    state, action = drawn(40)
    touched = 0
    after = physics.step(state, action)
    for row in range(len(state)):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = state[row, :2], state[row, 2:], action[row]
        for _ in range(SUBSTEPS):
            mujoco.mj_step(model, data)
            touched += data.ncon > 0
        np.testing.assert_allclose(after[row], [*data.qpos, *data.qvel], atol=1e-6)
    assert touched > 0, "no row touched a wall, so contacts were not compared"


def test_walls_hold_the_ball() -> None:
    physics = BallPhysics()
    state = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, -0.6, 0.0, 0.0]])
    push = np.array([[1.0, 0.0], [0.0, 1.0]])
    for _ in range(100):
        state = physics.step(state, push)
    assert state[0, 0] == pytest.approx(HALF_WIDTH - RADIUS, abs=0.01)
    assert state[1, 1] == pytest.approx(-0.25 - 0.02 - RADIUS, abs=0.01)
    assert np.abs(state[:, 2:]).max() < 0.01


def test_nothing_is_remembered_between_steps() -> None:
    physics = BallPhysics()
    state, action = drawn(8)
    first = physics.step(state, action)
    physics.step(first[::-1].copy(), action)
    assert np.array_equal(physics.step(state, action), first)
    assert np.array_equal(physics.step(state[2:5], action[2:5]), first[2:5])


def test_without_mujoco_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingDependencyError, match=r"pip install modereg\[mujoco\]"):
        import_mujoco()
    with pytest.raises(MissingDependencyError, match="needs mujoco"):
        BallPhysics()


def test_every_module_imports_without_mujoco() -> None:
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from modereg.errors import MissingDependencyError\n"
        "from modereg_integrations.mujoco import PointMaze, PointMazeGym, make_task\n"
        "task = make_task('point_maze')\n"
        "for make in (PointMaze, PointMazeGym, task.make_env):\n"
        "    try: make()\n"
        "    except MissingDependencyError as error: print('[mujoco]' in str(error))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True"] * 3
