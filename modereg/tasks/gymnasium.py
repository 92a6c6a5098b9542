"""Any Gymnasium environment with continuous actions, by its id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, MODE, OBSERVATION, REWARD, SUCCESS
from modereg.suggestions import with_suggestion
from modereg.tasks.base import Task

__all__ = ["GymnasiumEnv", "gymnasium_task"]

SUCCESS_NAMES = ("success", "is_success")
MODE_NAMES = ("mode",)


class GymnasiumEnv(EnvBase):
    """Several Gymnasium environments in one process, stepped one after the other.

    What ``next`` holds at the end of an episode is the true last observation; environments are
    reset by TorchRL's mask and never by themselves; one that has ended is not stepped again before
    its reset, so that chunks of actions may run past the end of an episode. (``GymEnv(id,
    num_envs=n)`` fills the last observation with zeros, and a ``SyncVectorEnv`` with SAME_STEP
    goes on into the next episode within a chunk.)

    Entries: the observation, under ``observation`` or under the names of a Dict space,
    ``[N, ...]``, float64 given as float32; ``success`` ``[N, 1]`` bool and ``mode`` ``[N, 1]``
    int64 where the info has them (False and -1 until it does); ``reward``, ``done``,
    ``terminated`` and ``truncated``, ``[N, 1]``.

    Args:
        make: makes one environment.
        num_envs: batch size ``N``.
        success_key: entry of the info that says whether the task is solved.
        mode_key: entry of the info that holds the mode's index.
        num_modes: number of modes, if known.
        seed: seed of all environments; None draws one from torch's generator.
        device: device of all tensors.

    Raises:
        ConfigurationError: if the actions are not a vector of floats, or an observation is not a
            Box or a Dict of them.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int = 1,
        *,
        success_key: str | None = None,
        mode_key: str | None = None,
        num_modes: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self._envs = [make() for _ in range(num_envs)]
        self._success_key, self._mode_key = success_key, mode_key
        self._make_specs(num_modes)
        self._buffers = self._make_buffers()
        self.set_seed(int(torch.empty((), dtype=torch.int64).random_()) if seed is None else seed)

    def _make_specs(self, num_modes: int | None) -> None:
        batch, env = self.batch_size, self._envs[0]
        actions = _check_actions(env)
        self._leaves = dict(_leaves(env.observation_space))
        observations = Composite(shape=batch, device=self.device)
        for key, box in self._leaves.items():
            observations[key] = Unbounded(
                (*batch, *box.shape), device=self.device, dtype=_torch_dtype(box.dtype)
            )
        flag = Binary(1, (*batch, 1), device=self.device, dtype=torch.bool)
        if self._success_key is not None:
            observations[SUCCESS] = flag.clone()
        if self._mode_key is not None:
            observations[MODE] = _mode_spec((*batch, 1), num_modes, self.device)
        self.observation_spec = observations
        self.action_spec = _action_spec(actions, batch, self.device)
        self.reward_spec = Unbounded((*batch, 1), device=self.device)
        names = ("done", "terminated", "truncated")
        self.done_spec = Composite({name: flag.clone() for name in names}, shape=batch)

    def _make_buffers(self) -> dict[NestedKey, np.ndarray]:
        parts = (self.observation_spec, self.full_done_spec, self.full_reward_spec)
        return {
            key: part[key].zero().numpy(force=True)
            for part in parts
            for key in part.keys(include_nested=True, leaves_only=True)
        }

    def _set_seed(self, seed: int | None) -> None:
        words = np.random.SeedSequence(seed).generate_state(len(self._envs))
        self._seeds: list[int | None] = [int(word) for word in words]

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        chosen = range(len(self._envs)) if mask is None else mask.flatten().nonzero().flatten()
        for index in map(int, chosen):
            observation, info = self._envs[index].reset(seed=self._seeds[index])
            self._seeds[index] = None
            self._note(index, observation, info, terminated=False, truncated=False)
        return self._read().exclude(REWARD)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = tensordict.get(ACTION).numpy(force=True)
        rewards = self._buffers[REWARD]
        rewards.fill(0)
        for index in map(int, np.flatnonzero(~self._buffers["done"])):
            observation, rewards[index], terminated, truncated, info = self._envs[index].step(
                actions[index]
            )
            self._note(index, observation, info, terminated=terminated, truncated=truncated)
        return self._read()

    def _note(
        self,
        index: int,
        observation: Any,
        info: Mapping[str, Any],
        *,
        terminated: bool,
        truncated: bool,
    ) -> None:
        buffers = self._buffers
        for key in self._leaves:
            buffers[key][index] = _lookup(observation, key)
        buffers["terminated"][index], buffers["truncated"][index] = terminated, truncated
        buffers["done"][index] = terminated or truncated
        if self._success_key is not None:
            buffers[SUCCESS][index] = bool(info.get(self._success_key, False))
        if self._mode_key is not None:
            buffers[MODE][index] = int(info.get(self._mode_key, -1))

    def _read(self) -> TensorDictBase:
        out = TensorDict({}, self.batch_size, device=self.device)
        for key, buffer in self._buffers.items():
            out.set(key, torch.from_numpy(buffer.copy()))
        return out

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Closes all environments."""
        for env in self._envs:
            env.close()
        super().close(raise_if_closed=raise_if_closed)


def _lookup(observation: Any, key: NestedKey) -> Any:
    if not isinstance(observation, Mapping):
        return observation
    for name in key if isinstance(key, tuple) else (key,):
        observation = observation[name]
    return observation


def _leaves(
    space: gymnasium.Space, path: tuple[str, ...] = ()
) -> Iterator[tuple[NestedKey, spaces.Box]]:
    """Yields key and space of every Box in an observation space."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from _leaves(part, (*path, name))
    elif isinstance(space, spaces.Box):
        yield (path if len(path) > 1 else path[0]) if path else OBSERVATION, space
    else:
        raise ConfigurationError(
            f"Observations must be a Box or a Dict of them, got {space} "
            f"at {'.'.join(path) or 'root'}; "
            "wrap the environment in gymnasium.wrappers.FlattenObservation."
        )


def _torch_dtype(dtype: Any) -> torch.dtype:
    converted = torch.from_numpy(np.zeros(0, dtype)).dtype
    return torch.float32 if converted == torch.float64 else converted


def _mode_spec(shape: tuple[int, ...], num_modes: int | None, device: Any) -> TensorSpec:
    if num_modes is None:
        return Unbounded(shape, device=device, dtype=torch.int64)
    return Bounded(-1, num_modes - 1, shape, device=device, dtype=torch.int64)


def _check_actions(env: gymnasium.Env) -> spaces.Box:
    space = env.action_space
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and len(space.shape) == 1:
        return space
    raise ConfigurationError(
        f"modereg steers policies with continuous actions, a Box of floats of shape [A], but "
        f"{env} has {space}; use an environment with continuous actions."
    )


def _action_spec(space: spaces.Box, batch: torch.Size, device: Any) -> TensorSpec:
    shape, dtype = (*batch, *space.shape), _torch_dtype(space.dtype)
    if not space.is_bounded():
        return Unbounded(shape, device=device, dtype=dtype)
    low, high = (
        torch.as_tensor(bound, dtype=dtype, device=device).expand(shape)
        for bound in (space.low, space.high)
    )
    return Bounded(low, high, shape, device=device, dtype=dtype)


def _make_one(env_id: str, env_options: dict[str, Any]) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id, **env_options)
    except gymnasium.error.UnregisteredEnv as error:
        sentence = f"Gymnasium does not know {env_id!r}: {error}"
        if "Did you mean" not in sentence:
            sentence = with_suggestion(sentence, env_id, gymnasium.registry)
        raise ConfigurationError(sentence) from error


def _make_env(
    env_id: str,
    env_options: dict[str, Any],
    keys: dict[str, Any],
    num_envs: int = 1,
    **options: Any,
) -> GymnasiumEnv:
    return GymnasiumEnv(partial(_make_one, env_id, env_options), num_envs, **keys, **options)


def _probe(env_id: str, env_options: dict[str, Any]) -> tuple[Any, set[str], tuple[Any, ...]]:
    """Spec, names in the info after a reset and a step, and keys of the observation."""
    env = _make_one(env_id, env_options)
    _check_actions(env)
    keys = tuple(key for key, _ in _leaves(env.observation_space))
    _, info = env.reset(seed=0)
    names = set(info)
    env.action_space.seed(0)
    names |= set(env.step(env.action_space.sample())[-1])
    env.close()
    return env.spec, names, keys


def gymnasium_task(
    env_id: str,
    *,
    max_steps: int | None = None,
    horizon: int = 8,
    execute: int = 8,
    offset: int = 0,
    success_key: str | None = None,
    mode_key: str | None = None,
    num_modes: int | None = None,
    num_envs: int = 16,
    **env_options: Any,
) -> Task:
    """Any Gymnasium environment with continuous actions as a task, whose time limit truncates.

    Success and mode are known only if the info of the environment gives them; an entry named
    ``success``, ``is_success`` or ``mode`` is found by one step in a probe.

    Args:
        env_id: id in Gymnasium's registry, ``module:id`` to import a module first.
        max_steps: time limit in environment steps; None takes the registered one.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        offset: first played action of a chunk.
        success_key: entry of the info that says whether the task is solved, if it has another name.
        mode_key: entry of the info that holds the mode's index, if it has another name.
        num_modes: number of modes, if known.
        num_envs: sensible number of environments in a batch.
        **env_options: given to ``gymnasium.make``.

    Raises:
        ConfigurationError: if the id is unknown, the spaces cannot be steered, or there is no time
            limit.
    """
    if max_steps is not None:
        env_options["max_episode_steps"] = max_steps
    spec, names, keys = _probe(env_id, env_options)
    if spec.max_episode_steps is None:
        raise ConfigurationError(f"{env_id!r} has no time limit; pass max_steps.")
    success_key = success_key or next((name for name in SUCCESS_NAMES if name in names), None)
    mode_key = mode_key or next((name for name in MODE_NAMES if name in names), None)
    info_keys = {"success_key": success_key, "mode_key": mode_key, "num_modes": num_modes}
    return Task(
        name=env_id,
        make_env=partial(_make_env, env_id, env_options, info_keys),
        max_steps=spec.max_episode_steps,
        horizon=horizon,
        execute=execute,
        offset=offset,
        observation_keys=keys,
        num_modes=num_modes,
        time_limit="truncates",
        num_envs=num_envs,
    )
