"""What a task is: an environment, the layout of its chunks, and what is known of its modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import OBSERVATION
from modereg.layout import Layout

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
        played: ``[N, T, A]``, the actions that were executed, None where nobody noted them.
        rewards: ``[N, T]``, what each of them earned, alike.
        terminated: ``[N]`` bool, whether the episode ended for good, alike.

    Raises:
        ShapeError: if the entries disagree on ``N`` or ``T``.
    """

    observations: dict[NestedKey, Tensor]
    actions: Tensor
    lengths: Tensor
    modes: Tensor
    success: Tensor
    played: Tensor | None = None
    rewards: Tensor | None = None
    terminated: Tensor | None = None

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

    def trajectories(self) -> list[dict[NestedKey, Tensor]]:
        """Return each episode as it was played, for :func:`~modereg.recordings.make_recording`.

        Raises:
            ConfigurationError: if it was not noted what was played.
        """
        if self.played is None or self.rewards is None or self.terminated is None:
            raise ConfigurationError(
                "expected demonstrations with what was played, got actions to imitate alone; note "
                "played, rewards and terminated too"
            )
        each = zip(self.lengths.tolist(), self.played, self.rewards, self.terminated)
        return [
            {key: value[row, : steps + 1] for key, value in self.observations.items()}
            | {"action": played[:steps], "reward": rewards[:steps], "terminated": terminated}
            for row, (steps, played, rewards, terminated) in enumerate(each)
        ]

    def mode_counts(self, num_modes: int) -> Tensor:
        """Number of successful episodes of each mode, ``[num_modes]`` int64."""
        modes = self.modes[self.success & (self.modes >= 0)]
        return torch.bincount(modes, minlength=num_modes)


@dataclass(frozen=True)
class Task:
    """An environment with what its policies and modes need.

    Only ``name``, ``make_env`` and ``layout`` are required.

    Attributes:
        name: printed in reports and stored in checkpoints.
        make_env: called as ``make_env(num_envs, device=..., **options)``; returns an ``EnvBase``
            with batch size ``[num_envs]`` (a single environment may have the batch size ``[]``).
        layout: how chunks are played and what is seen of an episode, see
            :class:`~modereg.layout.Layout`; keys that it leaves open are ``observation_keys``.
        observation_keys: what the base policy reads.
        num_modes: number of modes, where there is a label.
        mode_names: one name a mode.
        demonstrate: called as ``demonstrate(num_episodes, seed, shares=None)``, where ``shares``
            ``[num_modes]`` are relative frequencies of the modes.
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
        ConfigurationError: if the mode names do not fit.
    """

    name: str
    make_env: Callable[..., EnvBase]
    layout: Layout
    observation_keys: tuple[NestedKey, ...] = (OBSERVATION,)
    num_modes: int | None = None
    mode_names: tuple[str, ...] | None = None
    demonstrate: Callable[..., Demonstrations] | None = None
    num_envs: int = 256
    feature_noise: float | None = None
    plot: Callable[..., None] | None = None
    feature_names: tuple[str, ...] | None = None
    filmstrip_key: NestedKey | None = None
    renders: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", self.layout.for_observations(self.observation_keys))
        if self.mode_names is not None and len(self.mode_names) != self.num_modes:
            raise ConfigurationError(
                f"Task {self.name!r} names {len(self.mode_names)} modes but has "
                f"num_modes={self.num_modes}; give one name a mode."
            )

    def with_layout(self, **changes: Any) -> Task:
        """Return the task with other fields of its layout."""
        return replace(self, layout=replace(self.layout, **changes))
