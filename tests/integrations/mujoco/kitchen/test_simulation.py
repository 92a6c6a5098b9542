from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from modereg.errors import MissingDependencyError
from modereg_integrations.mujoco.kitchen import simulation
from modereg_integrations.mujoco.kitchen.simulation import ARM, START, KitchenPhysics


@pytest.fixture(scope="module")
def physics() -> KitchenPhysics:
    return KitchenPhysics()


def test_it_moves_as_franka_kitchen_v1_does(
    physics: KitchenPhysics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the two do in Python: limits, noise-free sensors, substeps."""
    franka = pytest.importorskip("gymnasium_robotics.envs.franka_kitchen.franka_env")
    from gymnasium_robotics.envs.franka_kitchen import KitchenEnv

    # Its own fails with MuJoCo 3.17, where numpy.int32 is in no enumeration.
    monkeypatch.setattr(
        franka, "robot_get_obs", lambda _, data, __: (data.qpos[:9].copy(), data.qvel[:9].copy())
    )
    theirs = KitchenEnv(["kettle"], object_noise_ratio=0.0, robot_noise_ratio=0.0)
    seen = theirs.reset(seed=0)[0]["observation"]
    monkeypatch.setattr(physics, "_noise", 0 * physics._noise)
    generator = np.random.default_rng(1)
    state = physics.start()
    assert np.array_equal(physics.observe(generator), seen)
    for _ in range(25):
        action = generator.uniform(-1.5, 1.5, 9)
        state = physics.step(state, action, physics.data.qpos[:ARM].copy())
        seen = theirs.step(action)[0]["observation"]
    np.testing.assert_allclose(physics.observe(generator), seen, atol=1e-9)
    theirs.close()


def test_a_state_is_all_that_is_remembered(physics: KitchenPhysics) -> None:
    start = physics.start()
    felt = np.array(START[:ARM])
    push = np.full(9, 0.7)
    first = physics.step(start, push, felt)
    other = physics.step(physics.step(start, -push, felt), -push, felt)
    assert not np.array_equal(first, other)
    assert np.array_equal(physics.step(start, push, felt), first)


def test_sensors_are_noisy_within_their_amplitudes(physics: KitchenPhysics) -> None:
    generator = np.random.default_rng(0)
    physics.start()
    seen = np.stack([physics.observe(generator) for _ in range(200)])
    spread = seen.max(0) - seen.min(0)
    assert (spread[: 2 * ARM] <= 0.002).all()
    assert (spread[: 2 * ARM] > 0.0015).all()
    assert (spread[2 * ARM :] <= 1e-4 + 1e-12).all()
    assert np.abs(seen.mean(0)[:ARM] - START[:ARM]).max() < 3e-4


def test_the_jacobian_is_the_hands(physics: KitchenPhysics) -> None:
    angles = np.array(START)
    physics.load(physics.start(angles))
    before, jacobian = physics.hand(), physics.jacobian()
    for joint in range(7):
        turned = angles.copy()
        turned[joint] += 1e-6
        physics.load(physics.start(turned))
        np.testing.assert_allclose((physics.hand() - before) / 1e-6, jacobian[:3, joint], atol=1e-5)


@pytest.mark.parametrize("installed", [True, False])
def test_without_the_models_the_extra_is_named(
    installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModuleSpec("gymnasium_robotics", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(simulation, "find_spec", lambda _: spec if installed else None)
    said = "are not in" if installed else "is not installed"
    with pytest.raises(MissingDependencyError, match=rf"{said}.*modereg\[kitchen\]"):
        KitchenPhysics()
