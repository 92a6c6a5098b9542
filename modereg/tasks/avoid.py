"""Avoid: a point passes three rows of cylinders, and may do so in 24 ways.

From D3IL (Jia et al., Towards Diverse Behaviors: A Benchmark for Imitation Learning with Human
Demonstrations, ICLR 2024, arXiv 2402.14606), whose task moves a robot's rod: the start, the six
cylinders, the goal line, the observation (desired and current position), the action (a step of
the desired position), failure on contact, and the 24 modes. Ours: a point instead of the robot,
with a first-order lag; control steps of at most 15 mm per axis, and at most 96 of them, where D3IL
allows 250 smaller ones, so that an episode has at most 12 decisions of 8 steps; the noise on the
start; a time-out that is a terminal failure; routes that pay differently; the scripted expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, ShapeError
from modereg.layout import Layout
from modereg.tasks.avoid_expert import lead_through
from modereg.tasks.avoid_geometry import (
    CYLINDERS,
    GOAL_Y,
    MODE_NAMES,
    MODE_WEIGHTS,
    NUM_MODES,
    START,
    gaps_of_modes,
)
from modereg.tasks.base import Task
from modereg.tasks.experts import demonstrate
from modereg.tasks.planar import PlanarEnv
from modereg.tasks.plots import Picture

__all__ = ["Avoid", "avoid_task", "route_pay"]

HORIZON = 8


def route_pay(spread: float) -> Tensor:
    """Pay of each route by its gap in the last row, ``1 + spread * (gap_3 - 1.5) / 1.5``, ``[24]``.

    With a spread of .3 the gaps pay .7, .9, 1.1 and 1.3, from left to right.
    """
    gap_3 = gaps_of_modes(torch.arange(NUM_MODES))[:, 2]
    return 1 + spread * (gap_3 - 1.5) / 1.5


class Avoid(PlanarEnv):
    """Three rows of cylinders in the plane, 24 routes through their gaps, in pure torch.

    Entries are those of :class:`~modereg.tasks.planar.PlanarEnv`. The mode is decided when the last
    row is crossed; what counts is where each row was first crossed. Contact is judged where a step
    ends: a step is shorter (21 mm at most) than the smallest radius (25 mm), so that none jumps
    over a cylinder, and what may be grazed unseen is at most 2.5 mm deep.

    Args:
        num_envs: batch size ``N``.
        pay_spread: how unequally the routes pay, see :func:`~modereg.tasks.avoid.route_pay`; 0
            pays 1 for each.
        pay: ``[24]``, own pay of each mode instead.
        blocked: mode, or modes, that are closed: an episode fails as soon as its mode is decided to
            be one. It tells what a policy can do that knows other ways.
        max_delta: largest step of the desired position per axis, in metres.
        **options: further ones of :class:`~modereg.tasks.planar.PlanarEnv`: ``start_noise`` (.01),
            ``max_steps`` (96), ``tracking`` (.5), ``seed``, ``device`` and ``dtype``.

    Raises:
        ShapeError: if ``pay`` is not of shape ``[24]``.
        ConfigurationError: if an option is out of its range, or steps could jump over a cylinder.
    """

    _closed: Tensor | None = None

    def __init__(
        self,
        num_envs: int,
        *,
        pay_spread: float = 0.0,
        pay: Tensor | Sequence[float] | None = None,
        blocked: int | Sequence[int] = (),
        max_delta: float = 0.015,
        **options: Any,
    ) -> None:
        smallest = min(radius for _, _, radius in CYLINDERS)
        if max_delta * 2**0.5 > smallest:
            raise ConfigurationError(
                f"Avoid judges contact where a step ends, so a step must be shorter than "
                f"{smallest} m; got max_delta={max_delta} per axis, "
                f"use at most {smallest / 2**0.5:.4f}."
            )
        pay = _check_pay(route_pay(pay_spread) if pay is None else torch.as_tensor(pay))
        usual: dict[str, Any] = {
            "start": START,
            "start_noise": 0.01,
            "max_steps": 96,
            "tracking": 0.5,
        }
        super().__init__(num_envs, max_delta=max_delta, pay=pay, **(usual | options))
        closed = [blocked] if isinstance(blocked, int) else list(blocked)
        if not set(closed) <= set(range(NUM_MODES)):
            raise ConfigurationError(f"expected blocked modes in [0, {NUM_MODES}), got {closed}")
        if closed:
            self._closed = torch.zeros(NUM_MODES, dtype=torch.bool)
            self._closed[closed] = True
            self._closed = self._closed.to(self.device)

    def _allocate(self) -> None:
        super()._allocate()
        self._closed = None if self._closed is None else self._closed.to(self.device)
        cylinders = torch.tensor(CYLINDERS, device=self.device, dtype=self._dtype)
        self._centre_x, self._centre_y, radius = cylinders.unsqueeze(-1).unbind(1)  # [6, 1]
        self._radius_squared = radius.square()
        self._weights = torch.tensor(MODE_WEIGHTS, device=self.device, dtype=self._dtype)
        shape = (len(CYLINDERS), *self.batch_size)
        self._crossed = torch.zeros(shape, device=self.device, dtype=torch.bool)
        self._on_right = torch.zeros_like(self._crossed)

    def _forget(self, mask: Tensor) -> None:
        self._crossed = self._crossed & ~mask.squeeze(-1)

    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Success beyond the goal line, failure on contact, and the mode."""
        x, y = position.unbind(-1)
        from_x, from_y = x - self._centre_x, y - self._centre_y  # [6, N]
        hit = (from_x.square() + from_y.square() < self._radius_squared).any(0)
        self._on_right = torch.where(self._crossed, self._on_right, from_x > 0)
        self._crossed = self._crossed | (from_y > 0)
        code = (self._weights @ self._on_right.to(self._dtype)).to(torch.int64)
        mode = torch.where(self._crossed[-1], code, -1)
        if self._closed is not None:
            hit = hit | (self._closed[code] & self._crossed[-1])
        return (y > GOAL_Y) & ~hit, hit, mode


def _check_pay(pay: Tensor) -> Tensor:
    if pay.shape != (NUM_MODES,):
        raise ShapeError(
            f"Avoid needs one pay per mode, shape [{NUM_MODES}], got {list(pay.shape)}."
        )
    return pay


def avoid_task(
    *,
    pay_spread: float = 0.3,
    pay: Tensor | Sequence[float] | None = None,
    blocked: int | Sequence[int] = (),
    start_noise: float = 0.01,
    action_noise: float = 0.3,
    lane_noise: float = 0.0,
    num_envs: int = 256,
) -> Task:
    """Avoid as a task named ``avoid``: chunks of 8 actions, all of them played, 24 modes.

    Args:
        pay_spread: how unequally the routes pay, see :func:`~modereg.tasks.avoid.route_pay`.
        pay: ``[24]``, own pay of each mode instead.
        blocked: mode, or modes, whose episodes fail, see :class:`Avoid`; the expert does not know.
        start_noise: half-width of the uniform noise on the start, in metres.
        action_noise: noise on the expert's executed actions, see
            :func:`~modereg.tasks.experts.demonstrate`.
        lane_noise: spread of the expert's lanes within their gaps, in metres.
        num_envs: sensible number of environments in a batch.
    """
    return Task(
        name="avoid",
        make_env=partial(
            Avoid, pay_spread=pay_spread, pay=pay, blocked=blocked, start_noise=start_noise
        ),
        layout=Layout(
            max_steps=96,
            horizon=HORIZON,
            execute=HORIZON,
            feature_dims=(2, 3),
            time_limit="terminates",
        ),
        num_modes=NUM_MODES,
        mode_names=MODE_NAMES,
        demonstrate=partial(
            demonstrate,
            partial(Avoid, pay_spread=pay_spread, pay=pay, start_noise=start_noise),
            partial(lead_through, lane_noise=lane_noise),
            NUM_MODES,
            action_noise=action_noise,
        ),
        num_envs=num_envs,
        feature_noise=0.03,
        plot=Picture(
            NUM_MODES,
            xlim=(0.2, 0.8),
            ylim=(-0.31, 0.38),
            obstacles=CYLINDERS,
            lines=[(GOAL_Y, "--")],
        ),
    )
