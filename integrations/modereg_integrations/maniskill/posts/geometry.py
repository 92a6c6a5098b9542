"""Geometry of the posts, in metres, the mode label, and what modes pay; pure torch.

The layout is that of D3IL's Avoid (Jia et al., ICLR 2024, arXiv 2402.14606), turned by a quarter:
row k has k posts, each between two of the row behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor

__all__ = [
    "GRAZE",
    "POSTS",
    "POST_HEIGHT",
    "POST_RADIUS",
    "START",
    "STICK_RADIUS",
    "TIP_HEIGHT",
    "Posts",
]

START = (-0.27, 0.0)
"""x and y of the stick's tip at the start, up to a centimetre."""

TIP_HEIGHT = 0.05
POST_RADIUS = 0.02
POST_HEIGHT = 0.1
STICK_RADIUS = 0.008
FIRST_ROW = -0.18
BETWEEN_ROWS = 0.12
BETWEEN_POSTS = 0.14
GOAL_MARGIN = 0.04
GRAZE = 0.002
"""Stick and post touch where they are closer than this."""

_GAP_NAMES = {2: ("R", "L"), 3: ("R", "M", "L"), 4: ("RR", "R", "L", "LL")}


@dataclass(frozen=True)
class Posts:
    """Rows of posts across the stick's way, and what is read off its path.

    The digit of a row is the number of its posts that lie on the right of the tip as it first
    crosses the row: 0 for the gap on the far right. The mode is the number that the digits write,
    the first row's first.

    Attributes:
        rows: number of posts of each row, 1 to 3 each.
        max_steps: environment steps of an episode.
    """

    rows: tuple[int, ...]
    max_steps: int

    @property
    def num_modes(self) -> int:
        """Number of modes ``M``, the product of the numbers of gaps."""
        return prod(count + 1 for count in self.rows)

    @cached_property
    def mode_names(self) -> tuple[str, ...]:
        """The gap of each row, as in ``L-M-RR``, M names."""
        gaps = (_GAP_NAMES[count + 1] for count in self.rows)
        return tuple("-".join(names) for names in product(*gaps))

    @property
    def row_x(self) -> Tensor:
        """Place of each row, ``[R]``."""
        return FIRST_ROW + BETWEEN_ROWS * torch.arange(len(self.rows))

    @property
    def goal_x(self) -> float:
        """The line that the tip has to cross."""
        return float(self.row_x[-1]) + GOAL_MARGIN

    def post_y(self, row: int) -> Tensor:
        """Places of the posts of a row, from right to left."""
        count = self.rows[row]
        return BETWEEN_POSTS * (torch.arange(count) - (count - 1) / 2)

    def gap_y(self, row: int) -> Tensor:
        """Middles of the gaps of a row, from right to left: one more than posts."""
        count = self.rows[row]
        return BETWEEN_POSTS * (torch.arange(count + 1) - count / 2)

    @cached_property
    def positions(self) -> Tensor:
        """x and y of every post, row by row, ``[P, 2]``."""
        across = [self.post_y(row) for row in range(len(self.rows))]
        along = self.row_x.repeat_interleave(torch.tensor(self.rows))
        return torch.stack([along, torch.cat(across)], -1)

    def digits(self, modes: Tensor) -> Tensor:
        """Gap of each row, from the right: modes ``[*B]`` int64 -> ``[*B, R]`` int64."""
        found = []
        for count in reversed(self.rows):
            found.append(modes % (count + 1))
            modes = modes // (count + 1)
        return torch.stack(found[::-1], -1)

    def mode(self, digits: Tensor) -> Tensor:
        """Mode of the digits ``[*B, R]`` int64, -1 while one of them is; ``[*B]`` int64."""
        number = torch.zeros_like(digits[..., 0])
        for row, count in enumerate(self.rows):
            number = number * (count + 1) + digits[..., row]
        return torch.where((digits >= 0).all(-1), number, -1)

    def crossed(self, before: Tensor, after: Tensor) -> Tensor:
        """Digits of the rows that a tip crossed which moved in one step, on a straight line.

        Args:
            before: ``[*B, 2]`` or longer, x and y first.
            after: the same.

        Returns:
            ``[*B, R]`` int64, -1 where the row was not crossed from the robot's side.
        """
        digits = []
        for row, x in enumerate(self.row_x.tolist()):
            share = (x - before[..., 0]) / (after[..., 0] - before[..., 0]).clamp(min=1e-9)
            y = torch.lerp(before[..., 1], after[..., 1], share)
            digit = (self.post_y(row).to(y.device) < y[..., None]).sum(-1)
            over = (before[..., 0] < x) & (after[..., 0] >= x)
            digits.append(torch.where(over, digit, -1))
        return torch.stack(digits, -1)

    def clearance(self, before: Tensor, after: Tensor) -> Tensor:
        """Least distance between stick and posts on a straight line, ``[*B]``, negative in a post.

        The stick stands upright, and a post counts as endless, so that none is passed over.

        Args:
            before: ``[*B, 2]`` or longer, x and y of the tip first.
            after: the same.
        """
        start, move = before[..., None, :2], (after - before)[..., None, :2]
        posts = self.positions.to(before.device)
        share = ((posts - start) * move).sum(-1) / move.square().sum(-1).clamp(min=1e-12)
        nearest = start + share.clamp(0, 1)[..., None] * move
        return (posts - nearest).norm(dim=-1).amin(-1) - POST_RADIUS - STICK_RADIUS

    def pay(self, spread: float) -> Tensor:
        """Pay of each mode by its gap in the last row, from ``1 - spread`` to ``1 + spread``.

        Returns:
            ``[M]``; the gap on the far left pays most.
        """
        last = self.digits(torch.arange(self.num_modes))[:, -1]
        return 1 + spread * (2 * last / self.rows[-1] - 1)


POSTS = {
    "ModeregPosts6-v1": Posts(rows=(1, 2), max_steps=50),
    "ModeregPosts24-v1": Posts(rows=(1, 2, 3), max_steps=60),
}
"""The registered tasks by their id; the second is Avoid."""
