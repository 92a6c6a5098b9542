"""What a task is: an environment, the layout of chunks, and what is known of its modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import OBSERVATION

__all__ = ["Demonstrations", "Task"]


@dataclass
class Demonstrations:
    """Episodes of an expert, padded to one length.

    Entries past an episode's length are padding: observations repeat the last one, actions are 0.

    Attributes:
        observations: key -> ``[N, T+1, ...]``, the observation before each action and the last one.
        actions: ``[N, T, A]``, the actions to imitate (clean ones, where the expert's hand shook).
        lengths: ``[N]`` int64, number of actions of each episode, in ``[1, T]``.
        modes: ``[N]`` int64, the mode each episode showed, -1 where undecided or unknown.
        success: ``[N]`` bool.

    Raises:
        ShapeError: if the entries disagree on ``N`` or ``T``.
    """

    observations: dict[NestedKey, Tensor]
    actions: Tensor
    lengths: Tensor
    modes: Tensor
    success: Tensor

    def __post_init__(self) -> None:
        num, steps = self.actions.shape[:2]
        for name in ("lengths", "modes", "success"):
            shape = tuple(getattr(self, name).shape)
            if shape != (num,):
                raise ShapeError(f"Demonstrations.{name} must have shape ({num},), got {shape}.")
        for key, value in self.observations.items():
            if tuple(value.shape[:2]) != (num, steps + 1):
                raise ShapeError(
                    f"Demonstrations.observations[{key!r}] must start with ({num}, {steps + 1}) "
                    f"to go with actions {tuple(self.actions.shape)}, got {tuple(value.shape)}."
                )

    def __len__(self) -> int:
        return self.actions.shape[0]

    def select(self, index: Tensor) -> Demonstrations:
        """Returns the episodes named by ``index`` (``[M]`` int64, or ``[N]`` bool)."""
        return Demonstrations(
            observations={key: value[index] for key, value in self.observations.items()},
            actions=self.actions[index],
            lengths=self.lengths[index],
            modes=self.modes[index],
            success=self.success[index],
        )

    def mode_counts(self, num_modes: int) -> Tensor:
        """Number of successful episodes of each mode, ``[num_modes]`` int64."""
        modes = self.modes[self.success & (self.modes >= 0)]
        return torch.bincount(modes, minlength=num_modes)


@dataclass(frozen=True)
class Task:
    """An environment with what its policies and modes need.

    Only ``name``, ``make_env`` and ``max_steps`` are required.

    Attributes:
        name: printed in reports and stored in checkpoints.
        make_env: called as ``make_env(num_envs, device=..., **options)``; returns an ``EnvBase``
            with batch size ``[num_envs]`` (a single environment may have the batch size ``[]``).
        max_steps: environment steps of an episode.
        horizon: actions in a chunk ``H`` of policies made for this task.
        execute: actions of a chunk that are played, open loop.
        offset: first played action of a chunk.
        observation_keys: what the base policy reads.
        steering_keys: what the steering policy and the critic read; the elapsed time too where the
            time limit terminates. None: ``observation_keys``.
        feature_keys: what the history feature and the discoverer see, in physical units.
            None: ``observation_keys``.
        feature_dims: dimensions of those entries that are kept, None for all.
        num_modes: number of modes, where there is a label.
        mode_names: one name a mode.
        demonstrate: called as ``demonstrate(num_episodes, seed, shares=None)``, where ``shares``
            ``[num_modes]`` are relative frequencies of the modes.
        time_limit: whether running out of steps is a terminal failure or a truncation.
        num_envs: sensible number of environments in a batch.
        feature_noise: standard deviation of the noise on the input of the inference model, in
            feature units; about a fifth of the distance between modes.
        plot: called as ``plot(ax, observations, modes, **options)`` with observations
            ``[N, T, ...]`` of the first feature key.
        feature_names: names of the kept dimensions of the first feature entry, which the report
            writes at the axes. With ``x``, ``y`` and ``z`` among them, paths are drawn from above
            and from the side.
        filmstrip_key: an image among the observations, ``[*B, C, H, W]`` or ``[*B, H, W, C]`` with
            one or three channels, uint8, or float in [0, 1], of which the report shows episodes.
        renders: whether the environment has a method ``render_frames() -> [num_envs, H, W, 3]``
            uint8, a picture of every row as it stands now. The report shows episodes by it where
            there is no ``filmstrip_key``.

    Raises:
        ConfigurationError: if the chunk layout or the mode names do not fit.
    """

    name: str
    make_env: Callable[..., EnvBase]
    max_steps: int
    horizon: int = 8
    execute: int = 8
    offset: int = 0
    observation_keys: tuple[NestedKey, ...] = (OBSERVATION,)
    steering_keys: tuple[NestedKey, ...] | None = None
    feature_keys: tuple[NestedKey, ...] | None = None
    feature_dims: tuple[int, ...] | None = None
    num_modes: int | None = None
    mode_names: tuple[str, ...] | None = None
    demonstrate: Callable[..., Demonstrations] | None = None
    time_limit: Literal["terminates", "truncates"] = "truncates"
    num_envs: int = 256
    feature_noise: float | None = None
    plot: Callable[..., None] | None = None
    feature_names: tuple[str, ...] | None = None
    filmstrip_key: NestedKey | None = None
    renders: bool = False

    def __post_init__(self) -> None:
        for name in ("steering_keys", "feature_keys"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.observation_keys)
        _check_layout(self)
        if self.mode_names is not None and len(self.mode_names) != self.num_modes:
            raise ConfigurationError(
                f"Task {self.name!r} names {len(self.mode_names)} modes but has "
                f"num_modes={self.num_modes}; give one name a mode."
            )

    @property
    def max_decisions(self) -> int:
        """Chunk decisions of the longest episode, ``ceil(max_steps / execute)``."""
        return -(-self.max_steps // self.execute)


def _check_layout(task: Task) -> None:
    if task.max_steps < 1 or task.execute < 1 or task.offset < 0:
        raise ConfigurationError(
            f"Task {task.name!r} needs max_steps >= 1, execute >= 1 and offset >= 0, got "
            f"{task.max_steps}, {task.execute} and {task.offset}."
        )
    if task.offset + task.execute > task.horizon:
        raise ConfigurationError(
            f"Task {task.name!r} plays actions {task.offset} to {task.offset + task.execute - 1} "
            f"of chunks of {task.horizon}; raise horizon or lower execute or offset."
        )
    if task.time_limit not in ("terminates", "truncates"):
        raise ConfigurationError(
            f"Task {task.name!r}: time_limit must be 'terminates' or 'truncates', "
            f"got {task.time_limit!r}."
        )
