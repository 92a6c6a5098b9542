"""The scripted expert of ModeregWall-v1, and demonstrations that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.scripted import (
    Stage,
    StagedPlan,
    demonstrate,
    scripted_env,
)
from modereg_integrations.maniskill.wall.geometry import (
    CUBE_START,
    GOAL,
    MAX_STEPS,
    MODE_NAMES,
    WALL_HALF_SIZE,
    WALL_X,
)

__all__ = ["CUBE_POSITION", "ENV_ID", "WallExpert", "demonstrate_wall", "make_wall_env"]

CUBE_POSITION = "cube_position"
"""Position of the cube in metres, ``[*B, 3]``."""

ENV_ID = "ModeregWall-v1"
SIDE = WALL_HALF_SIZE[1] + 0.07  # lane beside the wall, clear of it by the cube and the fingers
ABOVE = 2 * WALL_HALF_SIZE[2] + 0.06  # lane over the wall
CARRY = 0.05  # height of the tool while it carries the cube beside the wall
GRASP = 0.02
HOVER = 0.08
CLOSING_STEPS = 3


class WallExpert:
    """Picks the cube and carries it along the lane of one mode; deterministic in what it sees.

    Args:
        mode: 0 left, 1 right, 2 over.
        start: what the environment shows at the start, batch size ``[1]``.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, mode: int, start: TensorDictBase) -> None:
        if mode not in range(len(MODE_NAMES)):
            raise ConfigurationError(f"WallExpert knows the modes 0, 1 and 2, got {mode}.")
        x, y, _ = start[CUBE_POSITION][0].tolist()
        pick = [
            Stage((x, y, HOVER), True, 0.02),
            Stage((x, y, GRASP), True, 0.008),
            Stage((x, y, GRASP), False, 1.0, CLOSING_STEPS),
        ]
        self._plan = StagedPlan([*pick, *_lane(mode), Stage((*GOAL, CARRY), False, 0.0)])

    def __call__(self, td: TensorDictBase) -> Tensor:
        """Returns the action ``[4]`` for an observation ``[1, 13]``, and moves on in the plan."""
        return self._plan(td[OBSERVATION][0, 1:4])


def _lane(mode: int) -> list[Stage]:
    """Way points between the grasp and the goal."""
    if mode == 2:
        points = [(CUBE_START[0], 0.0, ABOVE), (GOAL[0] - 0.02, 0.0, ABOVE)]
    else:
        side = SIDE if mode == 0 else -SIDE
        points = [(CUBE_START[0] + 0.02, side, CARRY), (WALL_X + 0.06, side, CARRY)]
    return [Stage(point, False, 0.03) for point in points]


def make_wall_env(num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """The wall task with its control mode, sparse reward and the entry ``cube_position``.

    Args:
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    return scripted_env(ENV_ID, CUBE_POSITION, num_envs, **options)


def demonstrate_wall(
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

    Args:
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        shares: ``[3]``, relative frequencies of left, right and over; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].

    Returns:
        Demonstrations of 60 steps at most: ``observation`` ``[N, 61, 13]``, ``cube_position``
        ``[N, 61, 3]``, actions ``[N, 60, 4]``.

    Raises:
        ConfigurationError: if ``shares`` are not three non-negative numbers with a positive sum.
    """
    return demonstrate(
        make_wall_env,
        WallExpert,
        len(MODE_NAMES),
        num_episodes,
        seed,
        max_steps=MAX_STEPS,
        observed=(OBSERVATION, CUBE_POSITION),
        shares=shares,
        noise=noise,
    )
