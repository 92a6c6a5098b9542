"""The scripted expert of the posts, and demonstrations that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.posts.geometry import (
    BETWEEN_ROWS,
    POSTS,
    TIP_HEIGHT,
    Posts,
)
from modereg_integrations.maniskill.scripted import (
    Stage,
    StagedPlan,
    demonstrate,
    scripted_env,
)

__all__ = ["TIP_POSITION", "PostsExpert", "demonstrate_posts", "make_posts_env"]

TIP_POSITION = "tip_position"
"""Position of the stick's tip in metres, ``[*B, 3]``."""

BEYOND_GOAL = 0.02
ENTER, LEAVE = 0.02, 0.012  # how near to its way point the tip turns, before and behind a row


class PostsExpert:
    """Leads the tip through one gap of each row; deterministic in what it sees.

    It moves sideways in the corridors between rows, where both rows are equally far.

    Args:
        posts: the layout.
        mode: in ``[0, posts.num_modes)``.
        start: what the environment shows at the start, batch size ``[1]``; not looked at.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, posts: Posts, mode: int, start: TensorDictBase) -> None:
        del start  # the first stage is wherever the tip is
        if mode not in range(posts.num_modes):
            raise ConfigurationError(
                f"PostsExpert knows the modes 0 to {posts.num_modes - 1}, got {mode}."
            )
        self._plan = StagedPlan(_stages(posts, posts.digits(torch.tensor(mode)).tolist()))

    def __call__(self, td: TensorDictBase) -> Tensor:
        """Returns the action ``[3]`` for an observation ``[1, 6]``, and moves on in the plan."""
        return self._plan(td[OBSERVATION][0, :3])[:3]


def _stages(posts: Posts, digits: list[int]) -> list[Stage]:
    """Before each row and behind it, in the middle of its gap, then over the goal line."""
    stages = []
    for row, digit in enumerate(digits):
        x, y = float(posts.row_x[row]), float(posts.gap_y(row)[digit])
        stages.append(Stage((x - BETWEEN_ROWS / 2, y, TIP_HEIGHT), False, ENTER))
        stages.append(Stage((x + BETWEEN_ROWS / 2, y, TIP_HEIGHT), False, LEAVE))
    last = stages[-1].target
    return [*stages[:-1], Stage((posts.goal_x + BEYOND_GOAL, *last[1:]), False, 0.0)]


def make_posts_env(env_id: str, num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """A task of posts with its control mode, sparse reward and the entry ``tip_position``.

    Args:
        env_id: ``"ModeregPosts6-v1"`` or ``"ModeregPosts24-v1"``.
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    return scripted_env(env_id, TIP_POSITION, num_envs, **options)


def demonstrate_posts(
    env_id: str,
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

    Args:
        env_id: ``"ModeregPosts6-v1"`` or ``"ModeregPosts24-v1"``.
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        shares: ``[M]``, relative frequencies of the modes; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].

    Returns:
        Demonstrations of ``T`` = 50 or 60 steps at most: ``observation`` ``[N, T + 1, 6]``,
        ``tip_position`` ``[N, T + 1, 3]``, actions ``[N, T, 3]``.

    Raises:
        ConfigurationError: if ``shares`` are not ``M`` non-negative numbers with a positive sum.
    """
    posts = POSTS[env_id]
    return demonstrate(
        partial(make_posts_env, env_id),
        partial(PostsExpert, posts),
        posts.num_modes,
        num_episodes,
        seed,
        max_steps=posts.max_steps,
        observed=(OBSERVATION, TIP_POSITION),
        shares=shares,
        noise=noise,
    )
