"""The scripted expert of ModeregWall-v1, and demonstrations that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, MODE, OBSERVATION, SUCCESS
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.wall_geometry import (
    CUBE_START,
    GOAL,
    MAX_STEPS,
    MODE_NAMES,
    WALL_HALF_SIZE,
    WALL_X,
)

__all__ = ["CUBE_POSITION", "WallExpert", "demonstrate_wall", "make_wall_env"]

CUBE_POSITION = "cube_position"
"""Position of the cube in metres, ``[*B, 3]``."""

ENV_ID = "ModeregWall-v1"
REACH = 0.06  # metres of error at which the expert moves at full speed
FULL_SPEED = 0.6
SIDE = WALL_HALF_SIZE[1] + 0.07  # lane beside the wall, clear of it by the cube and the fingers
ABOVE = 2 * WALL_HALF_SIZE[2] + 0.06  # lane over the wall
CARRY = 0.05  # height of the tool while it carries the cube beside the wall
GRASP = 0.02
HOVER = 0.08
CLOSING_STEPS = 3


class _Stage(NamedTuple):
    """Where the tool goes next, whether the gripper is open, and how near is near enough."""

    target: tuple[float, float, float]
    is_open: bool
    tolerance: float
    steps: int = 0  # fewest steps to stay in the stage


class WallExpert:
    """Picks the cube and carries it along the lane of one mode; deterministic in what it sees.

    Args:
        mode: 0 left, 1 right, 2 over.
        cube: ``[3]``, position of the cube at the start, in metres.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, mode: int, cube: Tensor) -> None:
        if mode not in range(len(MODE_NAMES)):
            raise ConfigurationError(f"WallExpert knows the modes 0, 1 and 2, got {mode}.")
        x, y = float(cube[0]), float(cube[1])
        pick = [
            _Stage((x, y, HOVER), True, 0.02),
            _Stage((x, y, GRASP), True, 0.008),
            _Stage((x, y, GRASP), False, 1.0, CLOSING_STEPS),
        ]
        self._stages = [*pick, *_lane(mode), _Stage((*GOAL, CARRY), False, 0.0)]
        self._index = self._stayed = 0

    def __call__(self, observation: Tensor) -> Tensor:
        """Returns the action ``[4]`` for an observation ``[13]``, and moves on in the plan."""
        tool = observation[1:4]
        stage = self._stages[self._index]
        while self._stayed >= stage.steps and _distance(stage, tool) < stage.tolerance:
            self._index, self._stayed = self._index + 1, 0
            stage = self._stages[self._index]
        self._stayed += 1
        error = (torch.tensor(stage.target) - tool) / REACH
        move = FULL_SPEED * error / error.norm().clamp(min=1.0)
        return torch.cat([move, torch.tensor([1.0 if stage.is_open else -1.0])])


def _lane(mode: int) -> list[_Stage]:
    """Way points between the grasp and the goal."""
    if mode == 2:
        points = [(CUBE_START[0], 0.0, ABOVE), (GOAL[0] - 0.02, 0.0, ABOVE)]
    else:
        side = SIDE if mode == 0 else -SIDE
        points = [(CUBE_START[0] + 0.02, side, CARRY), (WALL_X + 0.06, side, CARRY)]
    return [_Stage(point, False, 0.03) for point in points]


def _distance(stage: _Stage, tool: Tensor) -> float:
    return float((torch.tensor(stage.target) - tool).norm())


def make_wall_env(num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """The wall task with its control mode, sparse reward and the entry ``cube_position``.

    Args:
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    defaults = {
        "control_mode": "pd_ee_delta_pos",
        "reward_mode": "sparse",
        "info_keys": (CUBE_POSITION,),
        "max_steps": None,
    }
    return ManiSkillEnv(ENV_ID, num_envs, **(defaults | options))


def demonstrate_wall(
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of the expert, the mode of each drawn independently of its start.

    The executed action is the expert's plus normal noise, so that the expert is seen to recover;
    the stored one is the expert's own. Modes are apportioned: with equal shares their planned
    numbers differ by one at most. Failed episodes are returned too.

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
    generator = torch.Generator().manual_seed(seed)
    modes = _planned_modes(num_episodes, shares, generator)
    env = make_wall_env(1, seed=seed, device="cpu")
    episodes = [_run_episode(env, int(mode), noise, generator) for mode in modes]
    env.close()
    columns = [torch.stack(column) for column in zip(*episodes)]
    observation, position, actions, lengths, shown, success = columns
    observations = {OBSERVATION: observation, CUBE_POSITION: position}
    return Demonstrations(observations, actions, lengths, shown, success)


def _planned_modes(
    num: int, shares: Sequence[float] | Tensor | None, generator: torch.Generator
) -> Tensor:
    """Modes ``[num]`` in random order, each as often as its share says, up to rounding."""
    weights = torch.ones(3) if shares is None else torch.as_tensor(shares, dtype=torch.float32)
    if weights.shape != (3,) or bool((weights < 0).any()) or not float(weights.sum()) > 0:
        raise ConfigurationError(
            "The wall task needs shares of left, right and over: three non-negative numbers with "
            f"a positive sum, got {shares}."
        )
    ends = (weights.cumsum(0) / weights.sum() * num).round()
    modes = torch.bucketize(torch.arange(num) + 0.5, ends)
    return modes[torch.randperm(num, generator=generator)]


def _run_episode(
    env: EnvBase, mode: int, noise: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One episode: observation, position, actions, length, mode and success, padded."""
    td = env.reset()
    expert = WallExpert(mode, td[CUBE_POSITION][0])
    seen, actions = [td], torch.zeros(MAX_STEPS, 4)
    for step in range(MAX_STEPS):
        actions[step] = expert(td[OBSERVATION][0])
        td = _advance(env, td, actions[step] + noise * torch.randn(4, generator=generator))
        seen.append(td)
        if td["done"].any():
            break
    length = len(seen) - 1
    seen += [td] * (MAX_STEPS - length)
    stacked = [torch.cat([entry[key] for entry in seen]) for key in (OBSERVATION, CUBE_POSITION)]
    return *stacked, actions, torch.tensor(length), td[MODE].view(()), td[SUCCESS].view(())


def _advance(env: EnvBase, td: TensorDictBase, action: Tensor) -> TensorDictBase:
    td = td.copy().set(ACTION, action.clamp(-1, 1).unsqueeze(0))
    following: TensorDictBase = env.step(td)["next"]
    return following
