"""The scripted expert of ModeregReach-v1, and demonstrations that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.reach.geometry import (
    MAX_STEPS,
    MODE_NAMES,
    OBSTACLE_HALF_SIZE,
    OBSTACLE_X,
    START,
)
from modereg_integrations.maniskill.scripted import (
    Stage,
    StagedPlan,
    demonstrate,
    scripted_env,
)

__all__ = ["ENV_ID", "TIP_POSITION", "ReachExpert", "demonstrate_reach", "make_reach_env"]

TIP_POSITION = "tip_position"
"""Position of the stick's tip in metres, ``[*B, 3]``."""

ENV_ID = "ModeregReach-v1"
SIDE = OBSTACLE_HALF_SIZE[1] + 0.14  # lane beside the obstacle, clear of it by the hand
LANE = ((OBSTACLE_X - 0.06, 0.03), (OBSTACLE_X + 0.06, 0.03))  # x, and how near is near enough


class ReachExpert:
    """Moves the tip along the lane of one side and to the goal; deterministic in what it sees.

    Args:
        mode: 0 left, 1 right.
        start: what the environment shows at the start, batch size ``[1]``.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, mode: int, start: TensorDictBase) -> None:
        if mode not in range(len(MODE_NAMES)):
            raise ConfigurationError(f"ReachExpert knows the modes 0 and 1, got {mode}.")
        seen = start[OBSERVATION][0]
        goal_x, goal_y, goal_z = (seen[:3] + seen[3:]).tolist()
        y = SIDE if mode == 0 else -SIDE
        lane = [Stage((x, y, START[2]), False, tolerance) for x, tolerance in LANE]
        self._plan = StagedPlan([*lane, Stage((goal_x, goal_y, goal_z), False, 0.0)])

    def __call__(self, td: TensorDictBase) -> Tensor:
        """Returns the action ``[3]`` for an observation ``[1, 6]``, and moves on in the plan."""
        return self._plan(td[OBSERVATION][0, :3])[:3]


def make_reach_env(num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """The reach task with its control mode, sparse reward and the entry ``tip_position``.

    Args:
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    return scripted_env(ENV_ID, TIP_POSITION, num_envs, **options)


def demonstrate_reach(
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

    Args:
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        shares: ``[2]``, relative frequencies of left and right; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].

    Returns:
        Demonstrations of 40 steps at most: ``observation`` ``[N, 41, 6]``, ``tip_position``
        ``[N, 41, 3]``, actions ``[N, 40, 3]``.

    Raises:
        ConfigurationError: if ``shares`` are not two non-negative numbers with a positive sum.
    """
    return demonstrate(
        make_reach_env,
        ReachExpert,
        len(MODE_NAMES),
        num_episodes,
        seed,
        max_steps=MAX_STEPS,
        observed=(OBSERVATION, TIP_POSITION),
        shares=shares,
        noise=noise,
    )
