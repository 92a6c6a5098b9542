"""The scripted expert of ModeregLiftPeg-v1, and demonstrations that it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.lift_peg.geometry import (
    HALF_LENGTH,
    HALF_WIDTH,
    MAX_STEPS,
    MODE_NAMES,
    START_NOISE,
    facing,
    rotation_vector,
)
from modereg_integrations.maniskill.scripted import demonstrate, scripted_env

__all__ = [
    "ENV_ID",
    "PEG_TIP",
    "Frame",
    "LiftPegExpert",
    "PosePlan",
    "PoseStage",
    "demonstrate_lift_peg",
    "make_lift_peg_env",
]

PEG_TIP = "peg_tip"
"""Position of the peg's blue end in metres, ``[*B, 3]``."""

ENV_ID = "ModeregLiftPeg-v1"
HOVER = 0.08
CLOSING_STEPS = 3
LIFT = 0.1  # how far above its place the peg turns
DOWN = facing(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, -1.0]))


class Frame(NamedTuple):
    """A pose: where its origin is, in metres, ``[3]``, and its axes as columns, ``[3, 3]``."""

    position: Tensor
    rotation: Tensor


class PoseStage(NamedTuple):
    """Which pose comes next, of the tool or of what it holds, and how near is near enough."""

    moved: Literal["tool", "peg"]
    position: tuple[float, float, float]
    rotation: Tensor  # [3, 3], whose columns are the axes
    is_open: bool
    tolerance: float
    angle_tolerance: float = math.pi
    steps: int = 0  # fewest steps to stay in the stage


class PosePlan:
    """Brings the tool, or what it holds, from pose to pose by ``pd_ee_delta_pose`` actions.

    Position and rotation move at the same time, the rotation about the axis that joins the two
    orientations. ManiSkill's controller turns the hand by -0.1 rad a unit of action, about the
    robot's axes: its sign is that of the controller's ``rot_lower``.

    Args:
        stages: in their order; the last one is never left.
        reach: metres of error at which the tool moves at full speed.
        turn: radians of error at which the hand turns at full speed.
    """

    def __init__(
        self, stages: Sequence[PoseStage], *, reach: float = 0.06, turn: float = 0.07
    ) -> None:
        self._stages, self._reach, self._turn = list(stages), reach, turn
        self._index = self._stayed = 0

    @property
    def stage(self) -> int:
        """Index of the stage that the last action was for."""
        return self._index

    def __call__(self, frames: Mapping[str, Frame]) -> Tensor:
        """Returns the action ``[7]`` in [-1, 1], and moves on in the plan.

        Args:
            frames: where the ``"tool"`` and the ``"peg"`` are.
        """
        offset, angle = self._errors(frames)
        while self._is_over(offset, angle):
            self._index, self._stayed = self._index + 1, 0
            offset, angle = self._errors(frames)
        self._stayed += 1
        grip = 1.0 if self._stages[self._index].is_open else -1.0
        move, turn = _bounded(offset / self._reach), _bounded(-angle / self._turn)
        return torch.cat([move, turn, torch.tensor([grip])])

    def _errors(self, frames: Mapping[str, Frame]) -> tuple[Tensor, Tensor]:
        stage = self._stages[self._index]
        position, rotation = frames[stage.moved]
        offset = torch.tensor(stage.position) - position
        return offset, rotation_vector(stage.rotation @ rotation.mT)

    def _is_over(self, offset: Tensor, angle: Tensor) -> bool:
        stage = self._stages[self._index]
        if self._index + 1 == len(self._stages) or self._stayed < stage.steps:
            return False
        near = float(offset.norm()) < stage.tolerance
        return near and float(angle.norm()) <= stage.angle_tolerance


def _bounded(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1.0)


class LiftPegExpert:
    """Grasps the peg, turns it in the air and stands it up; deterministic in what it sees.

    To get blue up it grasps towards the blue end and turns the palm to the front left; to get red
    up it grasps the middle and turns the palm to the back right. In both the hand's x axis, which
    lies along the peg, ends upright.

    Args:
        mode: 0 blue up, 1 red up.
        start: what the environment shows at the start, batch size ``[1]``.

    Raises:
        ConfigurationError: for another mode.
    """

    def __init__(self, mode: int, start: TensorDictBase) -> None:
        if mode not in range(len(MODE_NAMES)):
            raise ConfigurationError(f"LiftPegExpert knows the modes 0 and 1, got {mode}.")
        offset, up, heading, (x, y) = ENDINGS[mode]
        pick_x, pick_y, _ = start[OBSERVATION][0, 10:13].tolist()
        pick = (pick_x + offset, pick_y, HALF_WIDTH)
        turned = _turned(up, heading)
        self._plan = PosePlan(
            [
                PoseStage("tool", (*pick[:2], HOVER), DOWN, True, 0.025),
                PoseStage("tool", pick, DOWN, True, 0.01),
                PoseStage("tool", pick, DOWN, False, 1.0, steps=CLOSING_STEPS),
                PoseStage("peg", (x, y, HALF_LENGTH + LIFT), turned, False, 0.05, 0.15),
                PoseStage("peg", (x, y, HALF_LENGTH), turned, False, 0.0),
            ]
        )

    def __call__(self, td: TensorDictBase) -> Tensor:
        """Returns the action ``[7]`` for an observation ``[1, 16]``, and moves on in the plan."""
        seen = td[OBSERVATION][0]
        tool = Frame(seen[1:4], facing(seen[4:7], seen[7:10]))
        return self._plan({"tool": tool, "peg": _held(seen[10:13], seen[13:16], tool)})


ENDINGS = (
    (0.05, 1.0, 60.0, (-0.05, 0.15)),
    (0.0, -1.0, -120.0, (-0.1, -0.1)),
)
"""For each mode: how far towards the blue end the peg is grasped, whether the hand's x axis ends
up or down, the palm's heading in degrees from x, and where the peg stands."""


def _held(position: Tensor, axis: Tensor, tool: Frame) -> Frame:
    """The peg's frame: the hand's, turned so that x lies along the peg, however it slipped."""
    palm = tool.rotation[:, 2]
    across = palm - (palm @ axis) * axis
    return Frame(position, facing(axis, across / across.norm().clamp(min=1e-6)))


def _turned(up: float, heading: float) -> Tensor:
    """A hand whose palm looks to the horizon and whose x axis is upright."""
    angle = math.radians(heading)
    palm = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    return facing(torch.tensor([0.0, 0.0, up]), palm)


def make_lift_peg_env(num_envs: int = 1, **options: Any) -> ManiSkillEnv:
    """The peg task with its control mode, sparse reward and the entry ``peg_tip``.

    Args:
        num_envs: number of rows.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`; ``max_steps``
            is None here, so that a transform sets the time limit.
    """
    options = {"control_mode": "pd_ee_delta_pose"} | options
    return scripted_env(ENV_ID, PEG_TIP, num_envs, **options)


def demonstrate_lift_peg(
    num_episodes: int,
    seed: int,
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
    start_noise: float = START_NOISE,
) -> Demonstrations:
    """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

    Args:
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        shares: ``[2]``, relative frequencies of blue up and red up; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].
        start_noise: the peg's start differs by up to so much in x and y; the expert knows 0.1.

    Returns:
        Demonstrations of 80 steps at most: ``observation`` ``[N, 81, 16]``, ``peg_tip``
        ``[N, 81, 3]``, actions ``[N, 80, 7]``.

    Raises:
        ConfigurationError: if ``shares`` are not two non-negative numbers with a positive sum.
    """
    return demonstrate(
        partial(make_lift_peg_env, start_noise=start_noise),
        LiftPegExpert,
        len(MODE_NAMES),
        num_episodes,
        seed,
        max_steps=MAX_STEPS,
        observed=(OBSERVATION, PEG_TIP),
        shares=shares,
        noise=noise,
    )
