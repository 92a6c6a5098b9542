"""Somebody else's environment: a drone crosses a building of nine rooms, Gymnasium and numpy alone.

From the room at the lower left to the pad in the one at the upper right, through doors that are
off the rooms' middles. Commands are velocities, which the drone follows with a lag, and a wind
blows in the halls. Touching a wall is the end. The observation is one flat vector, and the info has
``success`` and, only if asked for, the ``route``, one of the six ways without a detour.
"""

from __future__ import annotations

from math import exp, sqrt
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ROOM = 4.0  # metres, as everything here
DOORS_EAST = ((1.5, 6.5, 9.5), (2.5, 5.5, 10.5))  # y of the doors in the walls x = 4 and x = 8
DOORS_NORTH = ((1.6, 6.4, 9.6), (2.4, 5.6, 10.4))  # x of the doors in the walls y = 4 and y = 8
HALF_DOOR, RADIUS = 1.2, 0.2
START, PAD, PAD_RADIUS = 1.8, 10.3, 0.5
SPEED, LAG, DT = 2.5, 0.4, 0.1  # metres a second, seconds, seconds
CALM = 0.8  # seconds after which the wind has forgotten itself
ROUTES = ("EENN", "ENEN", "ENNE", "NEEN", "NENE", "NNEE")


class RoomsEnv(gymnasium.Env):
    """Fly to the pad; the observation is place, velocity, wind and the pad's place, ``[8]``.

    Args:
        wind: standard deviation of the wind's push, in metres a second squared.
        with_route: whether the info says which route it was, 0 to 5, -1 before the last room and
            after a detour.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, wind: float = 0.5, with_route: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._strength, self._with_route = wind, with_route

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Hover anywhere in the first room; the pad is near the middle of the last one."""
        super().reset(seed=seed)
        self.place = START + self.np_random.uniform(-1.0, 1.0, 2)
        self.pad = PAD + self.np_random.uniform(-0.6, 0.6, 2)
        self.velocity = np.zeros(2)
        self.wind = self._strength * self.np_random.standard_normal(2)
        self._rooms = [(0, 0)]
        return self._observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Follow the command for a tenth of a second, as far as the wind lets."""
        command = SPEED * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        kept = exp(-DT / CALM)
        gust = self._strength * sqrt(1 - kept**2) * self.np_random.standard_normal(2)
        self.wind = kept * self.wind + gust
        self.velocity = self.velocity + DT * ((command - self.velocity) / LAG + self.wind)
        self.place = self.place + DT * self.velocity
        self._note_room()
        crashed = touches_wall(*self.place.tolist())
        landed = bool(((self.place - self.pad) ** 2).sum() < PAD_RADIUS**2) and not crashed
        return self._observe(), float(landed), crashed or landed, False, self._info(landed)

    def _note_room(self) -> None:
        """Keep the rooms on the way; going back takes the last one off."""
        x, y = self.place.tolist()
        room = (int(x // ROOM), int(y // ROOM))
        if room != self._rooms[-1]:
            if room in self._rooms[-2:-1]:
                self._rooms.pop()
            else:
                self._rooms.append(room)

    def _observe(self) -> np.ndarray:
        parts = (self.place, self.velocity, self.wind, self.pad)
        return np.concatenate(parts).astype(np.float32)

    def _info(self, landed: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"success": landed}
        if self._with_route:
            doors = zip(self._rooms, self._rooms[1:])
            way = "".join("E" if after[0] > before[0] else "N" for before, after in doors)
            info["route"] = ROUTES.index(way) if self._rooms[-1] == (2, 2) and way in ROUTES else -1
        return info


def touches_wall(x: float, y: float) -> bool:
    """Whether the drone is nearer to a wall than its radius, and not in a door."""
    if not (RADIUS < x < 3 * ROOM - RADIUS and RADIUS < y < 3 * ROOM - RADIUS):
        return True
    for along, across, doors in ((x, y, DOORS_EAST), (y, x, DOORS_NORTH)):
        for wall in (1, 2):
            if abs(along - wall * ROOM) < RADIUS:
                door = doors[wall - 1][int(across // ROOM)]
                if abs(across - door) > HALF_DOOR - RADIUS:
                    return True
    return False


gymnasium.register("Rooms-v0", RoomsEnv, max_episode_steps=160)
