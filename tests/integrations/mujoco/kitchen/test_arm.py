from __future__ import annotations

import numpy as np
import pytest

from modereg_integrations.mujoco.kitchen.arm import REST, Actions, Arm, direction
from modereg_integrations.mujoco.kitchen.simulation import ARM, KitchenPhysics


@pytest.fixture
def arm() -> Arm:
    physics = KitchenPhysics()
    physics.load(physics.start())
    return Arm(physics, lambda _: False, np.random.default_rng(0), 0.0)


def follow(arm: Arm, script: Actions) -> int:
    """Play a script without noise; return its steps."""
    physics, count = arm.physics, 0
    state = physics._state()
    for count, action in enumerate(script, 1):  # noqa: B007
        state = physics.step(state, action, physics.data.qpos[:ARM].copy())
        physics.load(state)
    return count


def test_the_hand_goes_to_a_way_point_and_turns(arm: Arm) -> None:
    target = arm.hand + np.array([0.1, 0.05, 0.1])
    steps = follow(arm, arm.go(target, True, near=0.01, steps=60))
    assert steps < 60
    assert np.linalg.norm(arm.hand - target) < 0.01
    turned = arm.physics.data.site("end_effector").xmat.reshape(3, 3)
    assert np.trace(turned @ direction(0.0).T) > 2.9  # 3 where they are alike


def test_it_stops_when_the_subtask_is_complete() -> None:
    physics = KitchenPhysics()
    physics.load(physics.start())
    arm = Arm(physics, lambda name: name == "kettle", np.random.default_rng(0), 0.0)
    far = arm.hand + 1.0
    assert follow(arm, arm.go(far, True, near=0.01, steps=9, until="kettle")) == 0
    assert follow(arm, arm.go(far, True, near=0.01, steps=2, until="microwave")) == 2


def test_home_is_where_it_began(arm: Arm) -> None:
    follow(arm, arm.go(arm.hand + np.array([0.2, 0.1, 0.2]), False, near=0.02, steps=40))
    assert np.abs(arm.physics.data.qpos[:7] - REST).max() > 0.2
    follow(arm, arm.go_home())
    assert np.abs(arm.physics.data.qpos[:7] - REST).max() < 0.12


def test_it_does_not_sag(arm: Arm) -> None:
    before = arm.hand
    follow(arm, arm.hold(True, 10))
    assert np.linalg.norm(arm.hand - before) < 0.01
