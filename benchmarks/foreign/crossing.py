"""Somebody else's environment: Gymnasium and numpy alone, with conventions of its own.

A disc is pushed up a field of 512 x 512 pixels, past three pillars, by absolute target positions.
Observations are a dictionary of ``agent_pos`` and ``environment_state`` (the pillars' places), in
pixels, float64. The info has ``is_success`` and, only if asked for, the index of the ``route``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 512.0
PILLARS = np.array([[176.0, 220.0], [336.0, 220.0], [256.0, 370.0]])
JITTER = 4.0
RADIUS, AGENT_RADIUS = 34.0, 10.0
START = np.array([256.0, 40.0])
FINISH = 470.0
MAX_SPEED = 14.0  # pixels a step


class CrossingEnv(gymnasium.Env):
    """Get past the pillars without touching one; there are six routes.

    Args:
        gusts: standard deviation, in pixels a step, of what pushes the disc about.
        with_route: whether the info says which route was taken, 0 to 5, -1 before that is decided.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, gusts: float = 0.0, with_route: bool = False) -> None:
        self.observation_space = spaces.Dict(
            agent_pos=spaces.Box(0.0, SIZE, (2,), np.float64),
            environment_state=spaces.Box(0.0, SIZE, (6,), np.float64),
        )
        self.action_space = spaces.Box(0.0, SIZE, (2,), np.float32)
        self._gusts, self._with_route = gusts, with_route

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start at the bottom, the pillars shaken by some pixels."""
        super().reset(seed=seed)
        self.pillars = PILLARS + self.np_random.uniform(-JITTER, JITTER, PILLARS.shape)
        self.place = START + self.np_random.uniform(-4.0, 4.0, 2)
        self.crossed: list[int] = []
        return self._observe(), self._info(False)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move towards the target, by 14 pixels at most."""
        move = np.asarray(action, np.float64) - self.place
        move *= min(1.0, MAX_SPEED / max(float(np.linalg.norm(move)), 1e-9))
        move += self._gusts * self.np_random.standard_normal(2)
        before, self.place = self.place, np.clip(self.place + move, 0.0, SIZE)
        self._note_crossings(before)
        distance = np.linalg.norm(self.pillars - self.place, axis=-1).min()
        hit = bool(distance < RADIUS + AGENT_RADIUS)
        success = bool(self.place[1] >= FINISH) and not hit
        return self._observe(), float(success), hit or success, False, self._info(success)

    def _note_crossings(self, before: np.ndarray) -> None:
        """Which gap of the first row, then which side of the second, the disc went through."""
        rows = (self.pillars[:2], self.pillars[2:])
        if len(self.crossed) < len(rows):
            row = rows[len(self.crossed)]
            if before[1] < row[:, 1].mean() <= self.place[1]:
                self.crossed.append(int((row[:, 0] < self.place[0]).sum()))

    def _observe(self) -> dict[str, np.ndarray]:
        return {"agent_pos": self.place.copy(), "environment_state": self.pillars.ravel().copy()}

    def _info(self, success: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"is_success": success}
        if self._with_route:
            done = len(self.crossed) == 2
            info["route"] = 2 * self.crossed[0] + self.crossed[1] if done else -1
        return info


gymnasium.register("Crossing-v0", CrossingEnv, max_episode_steps=72)
