"""The scripted expert of the visual task: it is told the route, and knows where the disc is."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg.tasks.experts import Expert
from modereg.tasks.visual.env import STATE_KEY, VisualAvoid
from modereg.tasks.visual.geometry import DISC_Y, LANES, ROWS_Y, gaps_of_modes

__all__ = ["RouteLeader", "lead_by_routes"]

AHEAD = 0.1
"""Distance before a row at which the point has reached its lane, in metres."""

BEHIND = 0.08
"""Distance behind a row at which the point turns to what comes next, in metres."""


class RouteLeader:
    """Leads points through one gap of each row to their discs, sideways first.

    Args:
        modes: ``[N]`` int64.
        target_x: x of the disc of each, ``[N]``.
        max_delta: largest step per axis, in metres.
    """

    def __init__(self, modes: Tensor, target_x: Tensor, max_delta: float) -> None:
        gaps = gaps_of_modes(modes)
        lanes = [target_x.new_tensor(lane)[gaps[:, row]] for row, lane in enumerate(LANES)]
        self._lanes = torch.stack([*lanes, target_x], -1)  # [N, 3]
        self._rows = target_x.new_tensor([*ROWS_Y, DISC_Y + AHEAD])
        self._max_delta = max_delta

    def __call__(self, position: Tensor) -> Tensor:
        """The next step, ``[N, 2]``, for positions ``[N, 2]``."""
        row = (position[:, 1:] > self._rows[:2] + BEHIND).sum(-1)  # rows behind the point, 0 to 2
        sideways = self._lanes.gather(1, row.unsqueeze(1)).squeeze(1) - position[:, 0]
        upwards = (self._rows[row] - AHEAD - position[:, 1]).clamp_min(0)
        steps = sideways.abs() / self._max_delta  # until the lane is reached
        speed = torch.where(steps < 1.0, self._max_delta, upwards / steps.clamp_min(1.0))
        delta = torch.stack([sideways, speed], -1)
        return delta.clamp(-self._max_delta, self._max_delta)


def lead_by_routes(env: VisualAvoid, modes: Tensor, generator: torch.Generator) -> Expert:
    """Return the expert of routes ``[N]``, drawn independently of start, sides and instruction."""
    leader = RouteLeader(modes, env.target, env.max_delta)
    return lambda root: leader(root[STATE_KEY])
