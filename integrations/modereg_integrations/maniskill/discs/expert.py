"""The scripted expert of ModeregDiscs-v1, and demonstrations that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.discs.geometry import DISCS, MAX_STEPS, MODE_NAMES
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.scripted import (
    Stage,
    StagedPlan,
    demonstrate,
    scripted_env,
)

__all__ = ["CUBE_POSITION", "ENV_ID", "DiscsExpert", "demonstrate_discs", "make_discs_env"]

CUBE_POSITION = "cube_position"
"""Position of the cube in metres, ``[*B, 3]``."""

ENV_ID = "ModeregDiscs-v1"
GRASP = 0.02
HOVER = 0.08
CARRY = 0.06  # height of the tool on its way to the disc
CLOSING_STEPS = 3


class DiscsExpert:
    """Picks the cube, carries it over one disc and puts it down; deterministic in what it sees.

    Args:
        mode: 0 near left, 1 near right, 2 far left, 3 far right.
        start: what the environment shows at the start, batch size ``[1]``.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, mode: int, start: TensorDictBase) -> None:
        if mode not in range(len(MODE_NAMES)):
            raise ConfigurationError(f"DiscsExpert knows the modes 0 to 3, got {mode}.")
        x, y, _ = start[CUBE_POSITION][0].tolist()
        disc = DISCS[mode]
        self._plan = StagedPlan(
            [
                Stage((x, y, HOVER), True, 0.02),
                Stage((x, y, GRASP), True, 0.008),
                Stage((x, y, GRASP), False, 1.0, CLOSING_STEPS),
                Stage((*disc, CARRY), False, 0.015),
                Stage((*disc, GRASP - 0.005), False, 0.0),
            ]
        )

    def __call__(self, td: TensorDictBase) -> Tensor:
        """Returns the action ``[4]`` for an observation ``[1, 10]``, and moves on in the plan."""
        return self._plan(td[OBSERVATION][0, 1:4])


def make_discs_env(num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """The task of discs with its control mode, sparse reward and the entry ``cube_position``.

    Args:
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    return scripted_env(ENV_ID, CUBE_POSITION, num_envs, **options)


def demonstrate_discs(
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

    Args:
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        shares: ``[4]``, relative frequencies of the discs; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].

    Returns:
        Demonstrations of 60 steps at most: ``observation`` ``[N, 61, 10]``, ``cube_position``
        ``[N, 61, 3]``, actions ``[N, 60, 4]``.

    Raises:
        ConfigurationError: if ``shares`` are not four non-negative numbers with a positive sum.
    """
    return demonstrate(
        make_discs_env,
        DiscsExpert,
        len(MODE_NAMES),
        num_episodes,
        seed,
        max_steps=MAX_STEPS,
        observed=(OBSERVATION, CUBE_POSITION),
        shares=shares,
        noise=noise,
    )
