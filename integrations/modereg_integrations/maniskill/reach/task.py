"""The reach task for modereg, and its picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.reach.expert import (
    ENV_ID,
    TIP_POSITION,
    demonstrate_reach,
    make_reach_env,
)
from modereg_integrations.maniskill.reach.geometry import (
    GOAL,
    GOAL_RADIUS,
    MAX_STEPS,
    MODE_NAMES,
    OBSTACLE_HALF_SIZE,
    OBSTACLE_X,
)
from modereg_integrations.maniskill.scripted import scripted_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["make_task", "plot_reach", "reach_task"]


def make_task(env_id: str, **options: Any) -> Task:
    """:func:`reach_task`, as the id ``"ModeregReach-v1"`` asks for it."""
    del env_id  # there is one
    return reach_task(**options)


def reach_task(
    *,
    max_steps: int = MAX_STEPS,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = 16,
    **options: Any,
) -> Task:
    """The reach task: two modes (left, right), seen by the position of the stick's tip.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        max_steps: environment steps of an episode.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: success pays 1 plus it on the left, 1 minus it on the right.
    """
    return scripted_task(
        ENV_ID,
        TIP_POSITION,
        MODE_NAMES,
        make_env=partial(make_reach_env, **options),
        max_steps=max_steps,
        horizon=horizon,
        execute=execute,
        demonstrate=demonstrate_reach,
        num_envs=num_envs,
        feature_noise=0.03,
        plot=plot_reach,
    )


def plot_reach(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the tip's paths from above, away from the robot upwards, with obstacle and goal.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the tip in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Circle, Rectangle

    seen = observations[..., [1, 0]]
    plot_trajectories(ax, seen, modes, num_modes=len(MODE_NAMES), lengths=lengths, limit=limit)
    depth, half_width, _ = OBSTACLE_HALF_SIZE
    corner = (-half_width, OBSTACLE_X - depth)
    ax.add_patch(Rectangle(corner, 2 * half_width, 2 * depth, color="0.25", zorder=3))
    ax.add_patch(Circle((GOAL[1], GOAL[0]), GOAL_RADIUS, fill=False, color="0.25", zorder=3))
    ax.set(xlim=(0.3, -0.3), ylim=(-0.25, 0.2), aspect="equal", xticks=[], yticks=[])
