"""``ModeregPosts6-v1`` and ``ModeregPosts24-v1``: a stick goes between rows of posts.

The layout is that of D3IL's Avoid (Jia et al., ICLR 2024, arXiv 2402.14606), turned by a quarter:
row k has k posts, each between two of the row behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.scripted import Stage
from modereg_integrations.maniskill.tabletop.base import Body, Step, View
from modereg_integrations.maniskill.tabletop.kinds import GREEN, GREY, TipTask, cylinder

__all__ = ["POST_RADIUS", "STICK_RADIUS", "Posts"]

TIP_HEIGHT = 0.05
POST_RADIUS = 0.02
POST_HEIGHT = 0.1
STICK_RADIUS = 0.008
FIRST_ROW = -0.18
BETWEEN_ROWS = 0.12
BETWEEN_POSTS = 0.14
GOAL_MARGIN = 0.04
BEYOND_GOAL = 0.02
ENTER, LEAVE = 0.02, 0.012  # how near to its way point the tip turns, before and behind a row
GRAZE = 0.002
"""Stick and post touch where they are closer than this."""

_GAP_NAMES = {2: ("R", "L"), 3: ("R", "M", "L"), 4: ("RR", "R", "L", "LL")}


class Posts(TipTask):
    """Move the tip of a stick past rows of posts and over the goal line, touching none.

    Success is the tip beyond the goal line. Touching a post ends the episode as a failure, as in
    Avoid, however high the tip is: stick and posts are judged from above, on the straight line from
    where the tip was a step before.

    The digit of a row is the number of its posts that lie on the right of the tip as it first
    crosses the row: 0 for the gap on the far right. The mode is the number that the digits write,
    the first row's first.

    State observation ``[N, 6]``: position and velocity of the tip, in metres (a second).

    Args:
        env_id: the id under which ManiSkill has it.
        rows: number of posts of each row, 1 to 3 each.
        max_steps: environment steps of an episode.
    """

    start_qpos = (0.0, -0.0803, 0.0, -2.8954, 0.0, 2.8108, 0.7857)  # the tip at x = -.27
    sensor_view = View(eye=(0.4, 0.0, 0.5), target=(-0.08, 0.0, 0.0))
    human_view = View(eye=(0.4, 0.0, 0.66), target=(-0.09, 0.0, 0.03))

    def __init__(self, env_id: str, rows: tuple[int, ...], max_steps: int) -> None:
        self.env_id, self.rows, self.max_steps = env_id, rows, max_steps
        self.marks = len(rows)
        gaps = (_GAP_NAMES[count + 1] for count in rows)
        self.mode_names = tuple("-".join(names) for names in product(*gaps))  # as in L-M-RR

    @cached_property
    def bodies(self) -> list[Body]:
        """The posts and the goal line."""
        posts = [
            cylinder(f"post_{index}", (x, y), POST_RADIUS, POST_HEIGHT, GREY)
            for index, (x, y) in enumerate(self.positions.tolist())
        ]
        flat = {"body_type": "static", "add_collision": False, "color": GREEN}
        line = {"half_sizes": (0.003, 0.3, 1e-3), **flat}
        return [*posts, Body("goal_line", "box", (self.goal_x, 0.0, 1e-3), line)]

    @cached_property
    def picture(self) -> Picture:
        """The posts from above; the robot stands below the picture."""
        return Picture(
            self.num_modes,
            xlim=(0.29, -0.29),
            ylim=(-0.3, self.goal_x + 0.06),
            obstacles=[(y, x, POST_RADIUS) for x, y in self.positions.tolist()],
            lines=[(self.goal_x, "--")],
            dims=(1, 0),
        )

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

    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """Digits of the rows that a tip crossed which moved in one step, on a straight line.

        Args:
            before: ``[*B, 2]`` or longer, x and y first.
            now: the same.

        Returns:
            ``[*B, R]`` int64, -1 where the row was not crossed from the robot's side.
        """
        digits = []
        for row, x in enumerate(self.row_x.tolist()):
            share = (x - before[..., 0]) / (now[..., 0] - before[..., 0]).clamp(min=1e-9)
            y = torch.lerp(before[..., 1], now[..., 1], share)
            digit = (self.post_y(row).to(y.device) < y[..., None]).sum(-1)
            over = (before[..., 0] < x) & (now[..., 0] >= x)
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

    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """Success beyond the goal line, failure by a touch."""
        mode = self.mode(step.decided)
        fail = self.clearance(step.before, step.now) < GRAZE
        success = (step.now[:, 0] > self.goal_x) & (mode >= 0) & ~fail
        return {"success": success, "fail": fail, "mode": mode}

    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """The tip."""
        velocity = sim.agent.tcp.get_linear_velocity()
        return {"tip_position": info["tip_position"], "tip_velocity": velocity}

    def stages(self, mode: int, start: TensorDictBase) -> list[Stage]:
        """Before each row and behind it, in the middle of its gap, then over the goal line.

        The tip moves sideways in the corridors between rows, where both rows are equally far.
        """
        stages = []
        for row, digit in enumerate(self.digits(torch.tensor(mode)).tolist()):
            x, y = float(self.row_x[row]), float(self.gap_y(row)[digit])
            stages.append(Stage((x - BETWEEN_ROWS / 2, y, TIP_HEIGHT), False, ENTER))
            stages.append(Stage((x + BETWEEN_ROWS / 2, y, TIP_HEIGHT), False, LEAVE))
        last = stages[-1].target
        return [*stages[:-1], Stage((self.goal_x + BEYOND_GOAL, *last[1:]), False, 0.0)]
