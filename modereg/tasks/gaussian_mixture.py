"""Gaussian mixture: a point goes to one of four goals around it.

After the two-dimensional example of BMD (Longhini et al., arXiv 2605.11387), in which a policy is
multimodal because its demonstrations are drawn from a mixture of four Gaussians. Ours: the sizes,
the control step, the sparse reward and its unequal pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ShapeError
from modereg.keys import OBSERVATION
from modereg.layout import Layout
from modereg.tasks.base import Task
from modereg.tasks.experts import Expert, demonstrate
from modereg.tasks.planar import PlanarEnv
from modereg.tasks.plots import Picture

__all__ = [
    "GOALS",
    "GOAL_RADIUS",
    "GaussianMixture",
    "gaussian_mixture_task",
    "goal_pay",
    "lead_to_goals",
]

GOALS = ((0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7))
"""x and y of the goals; the start is at the origin."""

GOAL_STD = 0.07
"""Standard deviation of each Gaussian, per axis: where the expert aims."""

GOAL_RADIUS = 0.2
"""An episode succeeds within this distance of a goal."""

MODE_NAMES = ("upper right", "upper left", "lower left", "lower right")
MAX_STEPS = 24
HORIZON = 4


def goal_pay(spread: float) -> Tensor:
    """Pay of each goal, evenly from ``1 + spread`` for the first to ``1 - spread``, ``[4]``."""
    return torch.linspace(1 + spread, 1 - spread, len(GOALS))


class GaussianMixture(PlanarEnv):
    """A point in the plane and four goals, one a mode, in pure torch.

    Entries are those of :class:`~modereg.tasks.planar.PlanarEnv`; the observation is the position,
    ``[N, 2]``. An episode succeeds when the point is within .2 of a goal, and fails after 24 steps.

    Args:
        num_envs: batch size ``N``.
        pay_spread: how unequally the goals pay, see :func:`goal_pay`; 0 pays 1 for each.
        pay: ``[4]``, own pay of each goal instead.
        **options: further ones of :class:`~modereg.tasks.planar.PlanarEnv`: ``start_noise`` (.05),
            ``max_delta`` (.08), ``max_steps`` (24), ``seed``, ``device`` and ``dtype``.

    Raises:
        ShapeError: if ``pay`` is not of shape ``[4]``.
        ConfigurationError: if an option is out of its range.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        pay_spread: float = 0.0,
        pay: Tensor | Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        pay = goal_pay(pay_spread) if pay is None else torch.as_tensor(pay)
        if pay.shape != (len(GOALS),):
            raise ShapeError(
                f"GaussianMixture needs one pay per goal, shape [{len(GOALS)}], got "
                f"{list(pay.shape)}."
            )
        usual: dict[str, Any] = {"start_noise": 0.05, "max_delta": 0.08, "max_steps": MAX_STEPS}
        super().__init__(num_envs, start=(0.0, 0.0), tracking=1.0, pay=pay, **(usual | options))

    def _allocate(self) -> None:
        super()._allocate()
        self._goals = torch.tensor(GOALS, device=self.device, dtype=self._dtype)

    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Success at a goal, which is the mode; no failure. See ``PlanarEnv.judge``."""
        offset = position.unsqueeze(1) - self._goals  # [N, 4, 2]
        distance_squared, nearest = offset.square().sum(-1).min(-1)
        success = distance_squared < GOAL_RADIUS**2
        mode = torch.where(success, nearest, -1)
        return success, torch.zeros_like(success), mode


def lead_to_goals(env: PlanarEnv, modes: Tensor, generator: torch.Generator) -> Expert:
    """Return what goes straight to a point drawn from the Gaussian of each mode ``[N]``."""
    aims = torch.tensor(GOALS)[modes]
    aims = aims + GOAL_STD * torch.randn(aims.shape, generator=generator)
    return lambda root: _straight(aims - root[OBSERVATION], env.max_delta)


def _straight(offset: Tensor, max_delta: float) -> Tensor:
    """The largest step towards ``offset`` ``[N, 2]`` that keeps its direction."""
    longest = offset.abs().amax(-1, keepdim=True).clamp_min(max_delta)
    return offset * (max_delta / longest)


def gaussian_mixture_task(
    *,
    pay_spread: float = 0.3,
    pay: Tensor | Sequence[float] | None = None,
    action_noise: float = 0.3,
    num_envs: int = 256,
) -> Task:
    """The Gaussian mixture as a task named ``gaussian_mixture``: chunks of 4 actions, 4 modes.

    Args:
        pay_spread: how unequally the goals pay, see :func:`goal_pay`.
        pay: ``[4]``, own pay of each goal instead.
        action_noise: noise on the expert's executed actions, in units of the largest step.
        num_envs: sensible number of environments in a batch.
    """
    make_env = partial(GaussianMixture, pay_spread=pay_spread, pay=pay)
    return Task(
        name="gaussian_mixture",
        make_env=make_env,
        layout=Layout(
            max_steps=MAX_STEPS, horizon=HORIZON, execute=HORIZON, time_limit="terminates"
        ),
        num_modes=len(GOALS),
        mode_names=MODE_NAMES,
        demonstrate=partial(
            demonstrate, make_env, lead_to_goals, len(GOALS), action_noise=action_noise
        ),
        num_envs=num_envs,
        feature_noise=0.25,
        plot=Picture(
            len(GOALS),
            xlim=(-1.2, 1.2),
            ylim=(-1.2, 1.2),
            goals=[(*goal, GOAL_RADIUS) for goal in GOALS],
        ),
    )
