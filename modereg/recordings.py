"""Recorded episodes: what a robot or a simulator was told, what it showed, and what that paid."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tensordict import NestedKey, TensorDict, is_leaf_nontensor
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from modereg import keys
from modereg.errors import (
    CheckpointError,
    ConfigurationError,
    KeyMismatchError,
    ModeregError,
    NonFiniteError,
    ShapeError,
)
from modereg.files import write_atomic
from modereg.suggestions import with_suggestion

__all__ = ["Recording", "load_recording", "make_recording", "save_recording"]

TERMINATED = "terminated"
PARTS = ("actions", "rewards", "lengths", TERMINATED)
SHOWN = "observation:"
"""In a file, what stands before the key of an observation, which is written as JSON."""


@dataclass(frozen=True)
class Recording:
    """N episodes in environment steps, n of them in all, one episode after the other.

    Attributes:
        observations: key -> ``[n + N, ...]``, what an episode showed before each action and at the
            end.
        actions: ``[n, A]``, as they were played.
        rewards: ``[n]``, of each action.
        lengths: ``[N]`` int64, actions of each episode, at least 1.
        terminated: ``[N]`` bool, whether it ended for good. One that did not ran out of time or was
            cut, and what it showed at the end has a value.

    Raises:
        ShapeError: if there is no episode, one has no action, or the entries do not go together.
        NonFiniteError: if one is not finite.
    """

    observations: dict[NestedKey, Tensor]
    actions: Tensor
    rewards: Tensor
    lengths: Tensor
    terminated: Tensor

    def __post_init__(self) -> None:
        number, steps = len(self.lengths), int(self.lengths.sum())
        if number < 1 or int(self.lengths.min()) < 1 or self.actions.ndim != 2:
            raise ShapeError(
                "expected episodes of at least one action [A] each, got actions of shape "
                f"{tuple(self.actions.shape)} in episodes of lengths {self.lengths.tolist()[:8]}"
            )
        sizes = {"actions": steps, "rewards": steps, "lengths": number, TERMINATED: number}
        for name, value in self.named():
            size = sizes.get(name, number + steps)
            if tuple(value.shape[:1]) != (size,):
                raise ShapeError(
                    f"expected {name} of {size} rows with {steps} actions in {number} episodes (an "
                    f"episode has one observation more than actions), got {tuple(value.shape)}"
                )
            wrong = ~torch.isfinite(value).flatten(1 if value.ndim > 1 else 0)
            if bool(wrong.any()):
                raise NonFiniteError(
                    f"expected finite {name}, got NaN or infinity, first in row "
                    f"{wrong.nonzero()[0, 0]}"
                )

    def __len__(self) -> int:
        """Return N."""
        return len(self.lengths)

    def named(self) -> Iterable[tuple[str, Tensor]]:
        """Return its tensors by the names that they have in a file."""
        yield from ((name, getattr(self, name)) for name in PARTS)
        for key, value in self.observations.items():
            yield SHOWN + json.dumps(keys.to_json(key)), value

    def check(self, env: EnvBase, needed: Collection[NestedKey] = ()) -> None:
        """Check that it may have been recorded from an environment.

        Args:
            env: a step of which is an environment step.
            needed: observations that have to be there.

        Raises:
            KeyMismatchError: if one of them is missing, or the environment has none of a name.
            ShapeError: if actions or observations are of another shape than the environment's.
            ConfigurationError: if they are of another type.
        """
        batch, shown = len(env.batch_size), env.full_observation_spec
        there, ours = set(shown.keys(True, True)), set(self.observations)
        if foreign := ours - there:
            sentence = f"expected observations of the environment, got also {_names(foreign)}"
            raise KeyMismatchError(with_suggestion(sentence, list(foreign), there - ours))
        if missing := set(needed) - ours:
            raise KeyMismatchError(
                f"expected also the observations {_names(missing)}, which are read, got "
                f"{_names(ours)}; record them too"
            )
        specs = {key: shown[key] for key in ours} | {keys.ACTION: env.full_action_spec[keys.ACTION]}
        for key, value in (self.observations | {keys.ACTION: self.actions}).items():
            expected, got = tuple(specs[key].shape[batch:]), tuple(value.shape[1:])
            if got != expected:
                raise ShapeError(
                    f"expected {key!r} of shape {expected} at each step, as the environment has "
                    f"it, got {got}"
                )
            if value.dtype != specs[key].dtype:
                raise ConfigurationError(
                    f"expected {key!r} of {specs[key].dtype}, as the environment has it, got "
                    f"{value.dtype}; convert it"
                )


def make_recording(trajectories: Iterable[Mapping[str, Any]], env: EnvBase) -> Recording:
    """Return trajectories as a recording on the CPU, to be kept by :func:`save_recording`.

    Each is a dictionary of arrays or tensors, of T actions:

    - ``action``: ``[T, A]``, as it was played.
    - ``reward``: ``[T]``, of each action; without it success pays 1 in the last step.
    - ``success``: whether it succeeded, one flag or one of each step; not needed with ``reward``.
    - ``terminated``: whether it ended for good, alike; without it, whether it succeeded.
    - every other entry, and nested ones: an observation ``[T + 1, ...]`` by the environment's key,
      before each action and at the end.

    Floats become those of the environment.

    Args:
        trajectories: one for each episode.
        env: the environment that they are of, a step of which is an environment step.

    Raises:
        ConfigurationError: if there is none, or one says too little, has other observations than
            the first, or values of another type than the environment.
        KeyMismatchError: if an observation is none of the environment's.
        ShapeError: for a wrong number of rows, or another shape than the environment's.
        NonFiniteError: for NaN and infinity. All of them name the trajectory.
    """
    parts: list[Recording] = []
    for number, trajectory in enumerate(trajectories):
        try:
            part = _typed(_episode(trajectory), env)
            part.check(env)
            if parts and set(part.observations) != set(parts[0].observations):
                raise ConfigurationError(
                    f"expected the observations of the first, {_names(parts[0].observations)}, got "
                    f"{_names(part.observations)}"
                )
        except ModeregError as error:
            raise type(error)(f"trajectory {number}: {error}") from None
        parts.append(part)
    if not parts:
        raise ConfigurationError("expected at least one trajectory, got none")
    shown = {
        key: torch.cat([part.observations[key] for part in parts]) for key in parts[0].observations
    }
    return Recording(shown, *(torch.cat([getattr(part, name) for part in parts]) for name in PARTS))


def _episode(trajectory: Mapping[str, Any]) -> Recording:
    """Return a trajectory as a recording of one episode."""
    own = (keys.ACTION, keys.REWARD, keys.SUCCESS, TERMINATED)
    given = {
        name: torch.as_tensor(trajectory[name], device="cpu") for name in own if name in trajectory
    }
    needed = (own[:1], own[1:3], own[2:])
    lacking = [" or ".join(names) for names in needed if not set(names) & set(given)]
    if lacking:
        raise ConfigurationError(
            f"expected {', '.join(lacking)}, got {sorted(map(str, trajectory))}; say what was "
            "played, what it paid and how it ended"
        )
    actions = given[keys.ACTION]
    if keys.REWARD in given:
        reward = given[keys.REWARD].float().flatten()
    else:
        reward = torch.zeros(len(actions), device=actions.device)
        reward[-1:] = given[keys.SUCCESS].any()
    ended = given[TERMINATED] if TERMINATED in given else given[keys.SUCCESS]
    shown = TensorDict(
        {name: value for name, value in trajectory.items() if name not in own}, device="cpu"
    )
    observations = dict(shown.items(True, True, is_leaf=is_leaf_nontensor))
    if others := [key for key, value in observations.items() if not isinstance(value, Tensor)]:
        raise ConfigurationError(f"expected arrays of numbers, got others under {_names(others)}")
    return Recording(
        observations=observations,
        actions=actions,
        rewards=reward,
        lengths=torch.tensor([len(actions)], device=actions.device),
        terminated=ended.any().reshape(1),
    )


def _typed(part: Recording, env: EnvBase) -> Recording:
    """Return a recording whose floats are as wide as the environment's."""

    def cast(value: Tensor, spec: TensorSpec | None) -> Tensor:
        wanted = value.dtype if spec is None else spec.dtype
        both = value.is_floating_point() and wanted.is_floating_point
        return value.to(wanted) if both else value

    shown = env.full_observation_spec
    there = shown.keys(True, True)
    observations = {
        key: cast(value, shown[key] if key in there else None)
        for key, value in part.observations.items()
    }
    actions = cast(part.actions, env.full_action_spec[keys.ACTION])
    return replace(part, observations=observations, actions=actions)


def save_recording(path: Path, recording: Recording) -> None:
    """Save a recording atomically, in the format of safetensors."""
    write_atomic(Path(path), save({name: value.contiguous() for name, value in recording.named()}))


def load_recording(path: Path) -> Recording:
    """Load what :func:`save_recording` saved, on the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is missing, damaged or foreign.
    """
    try:
        found = load(Path(path).read_bytes())
        observations = {
            keys.from_json(json.loads(name.removeprefix(SHOWN))): found.pop(name)
            for name in [*found]
            if name.startswith(SHOWN)
        }
        return Recording(observations, **found)
    except (OSError, SafetensorError, TypeError, ValueError, ModeregError) as error:
        raise CheckpointError(
            f"expected recorded episodes in {path}, got none: {error}; save_recording writes them"
        ) from None


def _names(names: Iterable[NestedKey]) -> list[str]:
    return sorted(map(str, names))
