"""The wall task for modereg, and its picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.scripted import scripted_task
from modereg_integrations.maniskill.wall.expert import (
    CUBE_POSITION,
    ENV_ID,
    demonstrate_wall,
    make_wall_env,
)
from modereg_integrations.maniskill.wall.geometry import MAX_STEPS, MODE_NAMES, WALL_HALF_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["make_task", "plot_wall", "wall_task"]


def make_task(env_id: str, **options: Any) -> Task:
    """:func:`wall_task`, as the id ``"ModeregWall-v1"`` asks for it."""
    del env_id  # there is one
    return wall_task(**options)


def wall_task(
    *,
    max_steps: int = MAX_STEPS,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = 16,
    **options: Any,
) -> Task:
    """The wall task: three modes (left, right, over), seen by the position of the cube.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        max_steps: environment steps of an episode.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: success pays 1 plus it on the left, 1 minus it over the wall.
    """
    return scripted_task(
        ENV_ID,
        CUBE_POSITION,
        MODE_NAMES,
        make_env=partial(make_wall_env, **options),
        max_steps=max_steps,
        horizon=horizon,
        execute=execute,
        demonstrate=demonstrate_wall,
        num_envs=num_envs,
        feature_noise=0.02,
        plot=plot_wall,
    )


def plot_wall(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the cube's paths as the robot sees them, with the wall, coloured by mode.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the cube in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, valid observations of each episode; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Rectangle

    plot_trajectories(
        ax, observations, modes, num_modes=len(MODE_NAMES), lengths=lengths, limit=limit
    )
    _, half_width, half_height = WALL_HALF_SIZE
    corner, width, height = (-half_width, 0), 2 * half_width, 2 * half_height
    ax.add_patch(Rectangle(corner, width, height, color="0.85", zorder=0))
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(xlim=(0.22, -0.22), ylim=(-0.01, 0.2), aspect="equal", xticks=[], yticks=[])
