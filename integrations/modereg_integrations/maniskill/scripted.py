"""Staged plans of a tool, and the demonstrations of scripted experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.tasks.base import Demonstrations
from modereg.tasks.experts import Expert, assign_modes, record

__all__ = ["REACH", "Stage", "StagedPlan", "demonstrate"]

REACH = 0.06
"""Metres of error at which the tool moves at full speed."""


class Stage(NamedTuple):
    """Where the tool goes next, whether the gripper is open, and how near is near enough."""

    target: tuple[float, float, float]
    is_open: bool
    tolerance: float
    steps: int = 0  # fewest steps to stay in the stage


class StagedPlan:
    """Moves the tool from stage to stage by ``pd_ee_delta_pos`` actions, each in [-1, 1].

    Args:
        stages: in their order; the last one is never left.
        full_speed: norm of the fastest move, at most 1.
    """

    def __init__(self, stages: Sequence[Stage], *, full_speed: float = 0.6) -> None:
        self._stages, self._full_speed = list(stages), full_speed
        self._index = self._stayed = 0

    @property
    def stage(self) -> int:
        """Index of the stage that the last action was for."""
        return self._index

    def __call__(self, tool: Tensor) -> Tensor:
        """Returns the action ``[4]`` for a tool at ``[3]``, in metres, and moves on in the plan."""
        stage = self._stages[self._index]
        while self._is_over(stage, tool):
            self._index, self._stayed = self._index + 1, 0
            stage = self._stages[self._index]
        self._stayed += 1
        error = (tool.new_tensor(stage.target) - tool) / REACH
        move = self._full_speed * error / error.norm().clamp(min=1.0)
        return torch.cat([move, move.new_tensor([1.0 if stage.is_open else -1.0])])

    def _is_over(self, stage: Stage, tool: Tensor) -> bool:
        if self._index + 1 == len(self._stages) or self._stayed < stage.steps:
            return False
        return float((tool.new_tensor(stage.target) - tool).norm()) < stage.tolerance


def demonstrate(
    make_env: Callable[..., EnvBase],
    make_expert: Callable[[int, TensorDictBase], Expert],
    num_modes: int,
    num_episodes: int,
    seed: int,
    *,
    max_steps: int,
    observed: Sequence[NestedKey],
    shares: Sequence[float] | Tensor | None = None,
    noise: float = 0.1,
) -> Demonstrations:
    """Episodes of an expert, the mode of each drawn independently of its start.

    The executed action is the expert's plus normal noise, so that the expert is seen to recover;
    the stored one is the expert's own. Modes are apportioned: with equal shares their planned
    numbers differ by one at most. Failed episodes are returned too.

    Args:
        make_env: called as ``make_env(1, seed=, device=)``.
        make_expert: called as ``make_expert(mode, td)`` at the start of each episode; its expert
            gives one action ``[A]`` for what one environment shows, batch size ``[1]``.
        num_modes: number of modes ``M``.
        num_episodes: number of episodes ``N``.
        seed: seeds the starts, the order of modes and the noise.
        max_steps: steps of the longest episode ``T``.
        observed: entries of the observation that are stored.
        shares: ``[M]``, relative frequencies of the modes; None: equal.
        noise: standard deviation of the noise on the executed action, whose range is [-1, 1].

    Returns:
        Demonstrations with ``observed`` ``[N, T + 1, ...]`` and actions ``[N, T, A]``.

    Raises:
        ConfigurationError: if ``shares`` are not ``M`` non-negative numbers with a positive sum.
    """
    generator = torch.Generator().manual_seed(seed)
    ties = torch.Generator().manual_seed(seed)
    modes = assign_modes(num_episodes, num_modes, shares, generator, ties)
    env = make_env(1, seed=seed, device="cpu")
    episodes = [
        _show(env, partial(make_expert, mode), max_steps, observed, noise, generator)
        for mode in modes.tolist()
    ]
    env.close()
    return Demonstrations(
        {key: torch.cat([each.observations[key] for each in episodes]) for key in observed},
        *(
            torch.cat([getattr(each, entry.name) for each in episodes])
            for entry in fields(Demonstrations)[1:]
        ),
    )


def _show(
    env: EnvBase,
    make_expert: Callable[[TensorDictBase], Expert],
    max_steps: int,
    observed: Sequence[NestedKey],
    noise: float,
    generator: torch.Generator,
) -> Demonstrations:
    """One episode."""
    start = env.reset()
    expert = make_expert(start)

    def act(root: TensorDictBase) -> tuple[Tensor, Tensor]:
        if root["done"].all():  # nothing more is drawn
            still = env.action_spec.zero()
            return still, still
        clean = expert(root).unsqueeze(0)
        shaken = clean + noise * torch.randn(clean.shape, generator=generator).to(clean.device)
        return shaken.clamp(-1, 1), clean

    return record(env, start, act, max_steps, observed)
