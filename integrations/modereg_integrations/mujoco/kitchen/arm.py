"""The arm of one kitchen as its expert moves it: way points of the hand into joint velocities."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from modereg_integrations.mujoco.kitchen.simulation import (
    ARM,
    CONTROL_STEP,
    LARGEST,
    START,
    KitchenPhysics,
)
from modereg_integrations.mujoco.maze_geometry import Floats

__all__ = ["Actions", "Arm", "direction"]

Actions = Iterator[Floats]
"""A script: actions ``[9]``, one an environment step; before each the row's state is loaded."""

REST = np.array(START[:7])
"""Joint angles at a reset."""
STIFFNESS = np.array([870.0] * 4 + [120.0] * 3)
"""Newton metres a radian of the joints' servos, which sag under gravity by as much."""
DAMPING = 1e-4
TURNING = 0.3
"""Metres that a radian of wrong orientation weighs."""
MOST_TURN = 0.25
"""Radians that the hand turns in a step at most."""
OPEN = 0.04
"""Metres of each finger."""
AT_HOME = 0.12
"""Radians of each joint within which the arm is home."""
HOMEWARDS = 0.14
"""Radians of each joint in a step on the way home."""


def direction(pitch: float, yaw: float = 0.0) -> Floats:
    """Return the hand's axes as columns, ``[3, 3]``, of which the last points from palm to tips.

    Args:
        pitch: degrees below the horizon.
        yaw: degrees to the left of straight ahead.
    """
    low, left = np.deg2rad([pitch, yaw])
    ahead = np.array([-np.sin(left) * np.cos(low), np.cos(left) * np.cos(low), -np.sin(low)])
    opening = np.array([np.cos(left), np.sin(left), 0.0])
    return np.stack([np.cross(opening, ahead), opening, ahead], 1)


class Arm:
    """One arm, of the kitchen that is loaded when a script goes on.

    Args:
        physics: with the row's state.
        completed: says whether a subtask has been complete.
        generator: of the way points' offsets.
        spread: standard deviation of them, in metres.
    """

    def __init__(
        self,
        physics: KitchenPhysics,
        completed: Callable[[str], bool],
        generator: np.random.Generator,
        spread: float,
    ) -> None:
        self.physics, self.completed = physics, completed
        self._generator, self._spread = generator, spread
        self.take_posture(direction(0.0))

    def take_posture(
        self, axes: Floats, joints: Floats | None = None, strength: float = 0.05
    ) -> None:
        """Choose how the hand is turned, and the joint angles that the arm prefers beside it.

        Args:
            axes: of the hand, see :func:`direction`.
            joints: ``[7]``; None: those at a reset.
            strength: share of the way to them in a step, as far as the hand is not moved by it.
        """
        self._axes, self._strength = axes, strength
        self._joints = REST if joints is None else joints

    @property
    def hand(self) -> Floats:
        """Place of the hand, ``[3]`` in metres."""
        return self.physics.hand()

    def joint(self, index: int) -> float:
        """Return an entry of ``qpos``."""
        return float(self.physics.data.qpos[index])

    def site(self, name: str) -> Floats:
        """Return the place of a site of the model, ``[3]``."""
        place: Floats = self.physics.data.site(name).xpos.copy()
        return place

    def body(self, name: str) -> Floats:
        """Return the place of a body of the model, ``[3]``."""
        place: Floats = self.physics.data.body(name).xpos.copy()
        return place

    def towards(self, target: Floats, opened: bool, speed: float = 0.6) -> Floats:
        """Return the action that moves the hand, by damped inverse kinematics, ``[9]``.

        Args:
            target: ``[3]`` in metres.
            opened: whether the fingers open or close.
            speed: metres a second at most.
        """
        jacobian = self.physics.jacobian()
        jacobian[3:] *= TURNING
        turned = self.physics.data.site("end_effector").xmat.reshape(3, 3)
        wrong = self._axes @ turned.T
        turn = np.array(
            [wrong[2, 1] - wrong[1, 2], wrong[0, 2] - wrong[2, 0], wrong[1, 0] - wrong[0, 1]]
        )
        move = _shortened(target - self.hand, speed * CONTROL_STEP)
        twist = np.concatenate([move, TURNING * _shortened(turn / 2, MOST_TURN)])
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING * np.eye(6))
        preferred = self._strength * (self._joints - self.physics.data.qpos[:7])
        step = inverse @ twist + preferred - inverse @ (jacobian @ preferred)
        return self._velocities(step, OPEN if opened else 0.0)

    def go(
        self,
        target: Floats | Callable[[], Floats],
        opened: bool,
        *,
        near: float,
        steps: int,
        speed: float = 0.6,
        until: str | None = None,
    ) -> Actions:
        """Move until the hand is near, a subtask is complete, or the steps are spent.

        Args:
            target: ``[3]``, or what gives it anew in each step; an offset is added to it.
            opened: whether the fingers open or close.
            near: metres.
            steps: how many at most.
            speed: metres a second at most.
            until: a subtask.
        """
        offset = self._spread * self._generator.standard_normal(3)
        for _ in range(steps):
            place = (target() if callable(target) else target) + offset
            if np.linalg.norm(place - self.hand) < near:
                return
            if until is not None and self.completed(until):
                return
            yield self.towards(place, opened, speed)

    def hold(self, opened: bool, steps: int) -> Actions:
        """Stay, and open or close the fingers."""
        for _ in range(steps):
            yield self.towards(self.hand, opened)

    def go_home(self, steps: int = 26) -> Actions:
        """Move the joints back to where they were at the reset, with closed fingers."""
        for _ in range(steps):
            away = REST - self.physics.data.qpos[:7]
            if np.abs(away).max() < AT_HOME:
                return
            yield self._velocities(np.clip(away, -HOMEWARDS, HOMEWARDS), 0.0)

    def _velocities(self, step: Floats, fingers: float) -> Floats:
        """Return the action that turns the arm's joints by ``[7]`` radians, against gravity."""
        data = self.physics.data
        arm = step + data.qfrc_bias[:7] / STIFFNESS
        grip = fingers - data.qpos[7:ARM]
        return np.clip(np.concatenate([arm, grip]) / (CONTROL_STEP * LARGEST), -1.0, 1.0)


def _shortened(vector: Floats, length: float) -> Floats:
    """Return a vector of at most a length."""
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))
