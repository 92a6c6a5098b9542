"""The task of four discs for modereg, and its picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.discs.expert import (
    CUBE_POSITION,
    ENV_ID,
    demonstrate_discs,
    make_discs_env,
)
from modereg_integrations.maniskill.discs.geometry import DISC_RADIUS, DISCS, MAX_STEPS, MODE_NAMES
from modereg_integrations.maniskill.scripted import scripted_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["discs_task", "make_task", "plot_discs"]


def make_task(env_id: str, **options: Any) -> Task:
    """:func:`discs_task`, as the id ``"ModeregDiscs-v1"`` asks for it."""
    del env_id  # there is one
    return discs_task(**options)


def discs_task(
    *,
    max_steps: int = MAX_STEPS,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = 16,
    **options: Any,
) -> Task:
    """The task of discs: four modes, seen by the position of the cube.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        max_steps: environment steps of an episode.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: the discs pay from 1 plus it (near left) to 1 minus it (far right).
    """
    return scripted_task(
        ENV_ID,
        CUBE_POSITION,
        MODE_NAMES,
        make_env=partial(make_discs_env, **options),
        max_steps=max_steps,
        horizon=horizon,
        execute=execute,
        demonstrate=demonstrate_discs,
        num_envs=num_envs,
        feature_noise=0.02,
        plot=plot_discs,
    )


def plot_discs(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the cube's paths from above, coloured by mode; the robot stands below the picture.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the cube in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, valid observations of each episode; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Circle

    across = observations[..., [1, 0]]  # y, which points to the robot's left, then x
    plot_trajectories(ax, across, modes, num_modes=len(MODE_NAMES), lengths=lengths, limit=limit)
    for x, y in DISCS:
        ax.add_patch(Circle((y, x), DISC_RADIUS, color="0.85", zorder=0))
    ax.set(xlim=(0.2, -0.2), ylim=(-0.26, 0.1), aspect="equal", xticks=[], yticks=[])
