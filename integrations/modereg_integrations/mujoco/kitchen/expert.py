"""The scripted expert of the kitchen: one script for each subtask, played in any order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks.experts import Expert
from modereg_integrations.mujoco.kitchen.arm import Actions, Arm, direction
from modereg_integrations.mujoco.kitchen.env import FrankaKitchen
from modereg_integrations.mujoco.kitchen.simulation import ARM
from modereg_integrations.mujoco.kitchen.subtasks import SUBTASKS, orders
from modereg_integrations.mujoco.maze_geometry import Floats

__all__ = ["SPREAD", "lead_in_order"]

SPREAD = 0.006
"""Standard deviation of the way points' offsets, in metres."""

MICROWAVE, KETTLE_X, KETTLE_Y = 22, 23, 24
"""Their positions among ``qpos``."""
AHEAD = 0.3
"""Radians by which the hand leads a door that it pulls."""
CARRY = np.array([-1.3, -0.92, 2.7, -2.7, 0.2, 2.07, 1.34])
"""Joint angles with the elbow above the kettle."""
REACH_UP = np.array([-1.0, -1.2, 1.35, -2.5, 0.04, 1.97, 1.14])
"""Joint angles before the light switch."""


def _at(x: float, y: float, z: float) -> Floats:
    return np.array([x, y, z])


def open_microwave(arm: Arm) -> Actions:
    """Grasp the handle from the front and pull it along the door's arc, then let go."""
    handle = arm.site("microhandle_site")
    arm.take_posture(direction(40.0, 20.0))
    yield from arm.go(handle + _at(0, -0.18, 0), True, near=0.03, steps=40)
    yield from arm.go(handle + _at(0, -0.015, 0), True, near=0.012, steps=25, speed=0.35)
    yield from arm.hold(False, 4)
    hinge = arm.body("microdoorroot")
    radius = handle - hinge
    for _ in range(44):
        if arm.completed("microwave"):
            break
        angle = arm.joint(MICROWAVE) - AHEAD
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = _at(
            cosine * radius[0] - sine * radius[1], sine * radius[0] + cosine * radius[1], radius[2]
        )
        yield arm.towards(hinge + turned + _at(0, -0.015, 0), False, 0.5)
    yield from arm.hold(True, 3)
    yield from arm.go(arm.hand + _at(0.05, -0.14, 0), True, near=0.03, steps=15)


def push_kettle(arm: Arm) -> Actions:
    """Push the kettle to the back burner from behind, steering against its drift."""
    height, right, front = arm.joint(25), arm.joint(KETTLE_X), arm.joint(KETTLE_Y)
    arm.take_posture(direction(65.0), CARRY, 0.2)

    def behind() -> Floats:
        return _at(arm.joint(KETTLE_X), arm.joint(KETTLE_Y) - 0.16, height + 0.1)

    def onwards() -> Floats:
        x = arm.joint(KETTLE_X)
        return _at(
            float(np.clip(x + 0.6 * (x + 0.25), -0.36, -0.16)), arm.hand[1] + 0.06, height + 0.095
        )

    yield from arm.go(_at(right, front - 0.26, height + 0.14), True, near=0.03, steps=50)
    yield from arm.go(behind, True, near=0.025, steps=12)
    yield from arm.go(onwards, True, near=0.001, steps=30, speed=0.4, until="kettle")
    yield from arm.go(arm.hand + _at(0, -0.16, 0.12), False, near=0.03, steps=12)


def switch_light(arm: Arm) -> Actions:
    """Sweep the switch to the left with closed fingers."""
    switch = arm.site("light_site")
    arm.take_posture(direction(0.0), REACH_UP, 0.15)
    yield from arm.go(switch + _at(0.12, -0.12, 0), False, near=0.03, steps=60)
    yield from arm.go(switch + _at(0.09, -0.025, -0.01), False, near=0.02, steps=15)
    far = switch + _at(-0.16, -0.015, -0.01)
    yield from arm.go(far, False, near=0.02, steps=30, speed=0.5, until="light switch")
    yield from arm.go(arm.hand + _at(0.02, -0.15, 0), False, near=0.03, steps=12)


def slide_cabinet(arm: Arm) -> Actions:
    """Push the handle to the right with closed fingers."""
    handle = arm.site("slide_site")
    arm.take_posture(direction(0.0))
    yield from arm.go(handle + _at(-0.12, -0.12, 0), False, near=0.03, steps=60)
    yield from arm.go(handle + _at(-0.09, -0.01, 0), False, near=0.02, steps=15)
    far = handle + _at(0.3, -0.01, 0)
    yield from arm.go(far, False, near=0.02, steps=40, speed=0.5, until="slide cabinet")
    yield from arm.go(arm.hand + _at(-0.04, -0.15, 0), False, near=0.03, steps=12)


SCRIPTS: dict[str, Callable[[Arm], Actions]] = {
    "microwave": open_microwave,
    "kettle": push_kettle,
    "light switch": switch_light,
    "slide cabinet": slide_cabinet,
}


def _play(arm: Arm, names: list[str]) -> Actions:
    """Complete subtasks in an order, home between them; each is tried twice. Then rest."""
    for number, name in enumerate(names):
        if number:
            yield from arm.go_home()
        yield from SCRIPTS[name](arm)
        if not arm.completed(name):
            yield from arm.go_home()
            yield from SCRIPTS[name](arm)
    while True:
        yield np.zeros(ARM)


def lead_in_order(
    env: FrankaKitchen, modes: Tensor, generator: torch.Generator, spread: float = SPREAD
) -> Expert:
    """Return the expert of modes ``[N]``, see :func:`~modereg.tasks.experts.demonstrate`.

    It reads the state of the simulation.

    Args:
        env: that it leads.
        modes: ``[N]``.
        generator: of the seeds of the way points' offsets.
        spread: standard deviation of these, in metres.
    """
    seeds = torch.randint(2**31, (len(modes),), generator=generator).tolist()
    sequences = orders(env.order.shape[1])[modes.numpy(force=True)]

    def script(row: int) -> Actions:
        def completed(name: str) -> bool:
            return SUBTASKS.index(name) in env.order[row]

        arm = Arm(env.physics, completed, np.random.default_rng(seeds[row]), spread)
        return _play(arm, [SUBTASKS[subtask] for subtask in sequences[row]])

    scripts = [script(row) for row in range(len(modes))]

    def act(root: TensorDictBase) -> Tensor:
        actions = np.zeros((len(modes), ARM))
        for row in (~root["done"]).flatten().nonzero().flatten().tolist():
            env.physics.load(env.states[row])
            actions[row] = next(scripts[row])
        return torch.from_numpy(actions).float().to(env.device)

    return act
