"""The peg task for modereg, and its picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.lift_peg.expert import (
    ENV_ID,
    PEG_TIP,
    demonstrate_lift_peg,
    make_lift_peg_env,
)
from modereg_integrations.maniskill.lift_peg.geometry import (
    HALF_LENGTH,
    MAX_STEPS,
    MODE_NAMES,
    START_NOISE,
)
from modereg_integrations.maniskill.scripted import scripted_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["lift_peg_task", "make_task", "plot_lift_peg"]


def make_task(env_id: str, **options: Any) -> Task:
    """:func:`lift_peg_task`, as the id ``"ModeregLiftPeg-v1"`` asks for it."""
    del env_id  # there is one
    return lift_peg_task(**options)


def lift_peg_task(
    *,
    max_steps: int = MAX_STEPS,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = 16,
    start_noise: float = START_NOISE,
    **options: Any,
) -> Task:
    """The peg task: two modes (blue up, red up), seen by the position of the peg's blue end.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        max_steps: environment steps of an episode.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        start_noise: the peg's start differs by up to so much in x and y; 0.1 gives the starts of
            ManiSkill's ``LiftPegUpright-v1``.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: success pays 1 plus it for blue up, 1 minus it for red up.
    """
    return scripted_task(
        ENV_ID,
        PEG_TIP,
        MODE_NAMES,
        make_env=partial(make_lift_peg_env, start_noise=start_noise, **options),
        max_steps=max_steps,
        horizon=horizon,
        execute=execute,
        demonstrate=partial(demonstrate_lift_peg, start_noise=start_noise),
        num_envs=num_envs,
        feature_noise=0.03,
        plot=plot_lift_peg,
    )


def plot_lift_peg(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the paths of the peg's blue end as the robot sees them, coloured by mode.

    The table is the full line; the dashed one is where the end is when blue is up.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the blue end in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, steps of each episode, one less than its observations; None for all.
        limit: draw the first so many episodes only.
    """
    plot_trajectories(
        ax, observations, modes, num_modes=len(MODE_NAMES), lengths=lengths, limit=limit
    )
    ax.axhline(0, color="0.4", linewidth=1)
    ax.axhline(2 * HALF_LENGTH, color="0.4", linestyle="--", linewidth=1)
    ax.set(xlim=(0.4, -0.4), ylim=(-0.02, 0.45), aspect="equal", xticks=[], yticks=[])
