"""Avoid as a camera above the table would see it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import avg_pool2d

from modereg.tasks import Avoid, Task, avoid_task
from modereg.tasks.avoid_geometry import CYLINDERS, GOAL_Y

__all__ = ["SeenAvoid", "seen_avoid_task"]

LEFT, BOTTOM, RIGHT, TOP = 0.2, -0.31, 0.8, 0.38
"""What is seen, in metres."""

FINE = 320
"""Pixels a metre, times two each way, of which means are taken."""

TABLE, POST, LINE = (0.95, 0.945, 0.93), (0.25, 0.25, 0.25), (0.6, 0.6, 0.6)
TRAIL, TIP = (0.35, 0.6, 0.85), (0.85, 0.3, 0.05)
"""Red, green and blue."""


class SeenAvoid(Avoid):
    """Remembers where it went since the reset, and draws it when it is asked to render."""

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        self._trail: list[Tensor] = []
        return super()._reset(tensordict, **kwargs)

    def _observe(self) -> dict[str, Tensor]:
        self._trail.append(self._current)
        return super()._observe()

    def render_frames(self) -> Tensor:
        """Return a picture of every row, ``[N, H, W, 3]`` uint8."""
        return torch.stack([_draw(row) for row in torch.stack(self._trail, 1)])


def _draw(trail: Tensor) -> Tensor:
    """Draw posts, goal line, a trail ``[T, 2]`` and its tip; return ``[H, W, 3]`` uint8."""
    x = torch.arange(LEFT, RIGHT, 1 / FINE)
    y = torch.arange(TOP, BOTTOM, -1 / FINE)[:, None]
    picture = torch.tensor(TABLE).expand(len(y), len(x), 3).clone()
    picture[((y - GOAL_Y).abs() < 0.003).expand(-1, len(x))] = torch.tensor(LINE)
    _paint_trail(picture, trail)
    discs = [*((*post, POST) for post in CYLINDERS), (*trail[-1].tolist(), 0.016, TIP)]
    for center_x, center_y, radius, color in discs:
        inside = (x - center_x) ** 2 + (y - center_y) ** 2 < radius**2
        picture[inside] = torch.tensor(color)
    small = avg_pool2d(picture.movedim(-1, 0), 2).movedim(0, -1)
    return (255 * small).round().to(torch.uint8)


def _paint_trail(picture: Tensor, trail: Tensor) -> None:
    """Paint a line of three pixels along the positions ``[T, 2]``."""
    share = torch.linspace(0, 1, 8)[:, None, None]
    points = torch.lerp(trail[:-1], trail[1:], share).reshape(-1, 2)
    columns, rows = ((points - torch.tensor([LEFT, TOP])) * torch.tensor([FINE, -FINE])).long().T
    height, width = picture.shape[:2]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row, column = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
            picture[row, column] = torch.tensor(TRAIL)


def seen_avoid_task() -> Task:
    """Return Avoid, which now renders; policies for Avoid are policies for it."""
    task = avoid_task()
    return replace(task, make_env=partial(SeenAvoid, pay_spread=0.3), renders=True)
