"""The tasks of posts for modereg, and their picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.posts.expert import (
    TIP_POSITION,
    demonstrate_posts,
    make_posts_env,
)
from modereg_integrations.maniskill.posts.geometry import POST_RADIUS, POSTS, Posts
from modereg_integrations.maniskill.scripted import scripted_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["make_task", "plot_posts"]


def make_task(
    env_id: str,
    *,
    max_steps: int | None = None,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = 16,
    **options: Any,
) -> Task:
    """A task of posts: 6 or 24 modes, seen by the position of the stick's tip.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        env_id: ``"ModeregPosts6-v1"`` or ``"ModeregPosts24-v1"``.
        max_steps: environment steps of an episode; None: 50 or 60.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: success pays 1 plus it on the far left of the last row, 1 minus it on
            the far right.
    """
    posts = POSTS[env_id]
    return scripted_task(
        env_id,
        TIP_POSITION,
        posts.mode_names,
        make_env=partial(make_posts_env, env_id, **options),
        max_steps=max_steps or posts.max_steps,
        horizon=horizon,
        execute=execute,
        demonstrate=partial(demonstrate_posts, env_id),
        num_envs=num_envs,
        feature_noise=0.03,
        plot=partial(plot_posts, posts),
    )


def plot_posts(
    posts: Posts,
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws posts, goal line and the tip's paths from above; the robot stands below the picture.

    Args:
        posts: the layout.
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the tip in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, valid observations of each episode; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Circle

    across = observations[..., [1, 0]]  # y, which points to the robot's left, then x
    plot_trajectories(ax, across, modes, num_modes=posts.num_modes, lengths=lengths, limit=limit)
    for x, y in posts.positions.tolist():
        ax.add_patch(Circle((y, x), POST_RADIUS, color="0.25", zorder=3))
    ax.axhline(posts.goal_x, color="0.4", linestyle="--", linewidth=1)
    ax.set(xlim=(0.29, -0.29), ylim=(-0.3, posts.goal_x + 0.06), aspect="equal")
    ax.set(xticks=[], yticks=[])
