"""Any Gymnasium environment with continuous actions, by its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import ACTION, MODE, REWARD, SUCCESS
from modereg.layout import Layout
from modereg.suggestions import with_suggestion
from modereg.tasks._gym_spaces import (
    action_spec,
    check_actions,
    mode_spec,
    observation_leaves,
    torch_dtype,
)
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
    int64 where the info has them (False and -1 until it does, and where it says None); ``reward``,
    ``done``, ``terminated`` and ``truncated``, ``[N, 1]``.

    Args:
        make: makes one environment.
        num_envs: batch size ``N``.
        success_key: entry of the info that says whether the task is solved.
        mode_key: entry of the info that holds the mode's index.
        num_modes: number of modes, if known.
        success: when an episode has succeeded: ``"once"`` the info has said so at any of its steps,
            as Metaworld and ManiSkill's ``success_once`` count it, or if it says so ``"at_end"``,
            in the last step. :class:`~modereg.transforms.ActionChunk` keeps to it. The mode is the
            latest that the info named in the episode.
        seed: seed of all environments; None draws one from torch's generator.
        device: device of all tensors.

    Raises:
        ConfigurationError: if there is no environment, the actions are not a vector of floats, an
            observation is not a Box or a Dict of them or is named like another entry; in a step, if
            the info's success is no single flag, or its mode no index of one.
        ShapeError: in a step, if an observation is not of its space's shape.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int = 1,
        *,
        success_key: str | None = None,
        mode_key: str | None = None,
        num_modes: int | None = None,
        success: Literal["once", "at_end"] = "once",
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_envs < 1 or success not in ("once", "at_end"):
            raise ConfigurationError(
                "expected at least one environment and success of 'once' or 'at_end', got "
                f"num_envs={num_envs} and success={success!r}"
            )
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self._envs = [make() for _ in range(num_envs)]
        self._success_key, self._mode_key, self._num_modes = success_key, mode_key, num_modes
        self.success_counts = success
        self._make_specs(num_modes)
        self._buffers = self._make_buffers()
        self.set_seed(int(torch.empty((), dtype=torch.int64).random_()) if seed is None else seed)

    def _make_specs(self, num_modes: int | None) -> None:
        batch, env = self.batch_size, self._envs[0]
        self._actions = check_actions(env)
        self._leaves = dict(observation_leaves(env.observation_space))
        self._check_names()
        observations = Composite(shape=batch, device=self.device)
        for key, box in self._leaves.items():
            observations[key] = Unbounded(
                (*batch, *box.shape), device=self.device, dtype=torch_dtype(box.dtype)
            )
        flag = Binary(1, (*batch, 1), device=self.device, dtype=torch.bool)
        if self._success_key is not None:
            observations[SUCCESS] = flag.clone()
        if self._mode_key is not None:
            observations[MODE] = mode_spec((*batch, 1), num_modes, self.device)
        self.observation_spec = observations
        self.action_spec = action_spec(self._actions, batch, self.device)
        self.reward_spec = Unbounded((*batch, 1), device=self.device, dtype=torch.float32)
        names = ("done", "terminated", "truncated")
        self.done_spec = Composite({name: flag.clone() for name in names}, shape=batch)

    def _check_names(self) -> None:
        taken = {ACTION, REWARD, "done", "terminated", "truncated", "next"}
        taken |= {SUCCESS} if self._success_key is not None else set()
        taken |= {MODE} if self._mode_key is not None else set()
        clash = sorted(taken & {key if isinstance(key, str) else key[0] for key in self._leaves})
        if clash:
            raise ConfigurationError(
                f"expected observations with names of their own, got {clash}, which TorchRL or the "
                "labels take; rename them by gymnasium.wrappers.TransformObservation, or leave the "
                "labels out"
            )

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
            self._forget_labels(index)
            self._note(index, observation, info, terminated=False, truncated=False)
        return self._read().exclude(REWARD)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = tensordict.get(ACTION).numpy(force=True).astype(self._actions.dtype)
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
            value = np.asarray(_lookup(observation, key))
            if value.shape != buffers[key].shape[1:]:
                raise ShapeError(
                    f"expected an observation {key!r} of shape {buffers[key].shape[1:]}, as the "
                    f"space says, got {value.shape}; mend the environment or its space"
                )
            buffers[key][index] = value
        buffers["terminated"][index], buffers["truncated"][index] = terminated, truncated
        buffers["done"][index] = terminated or truncated
        self._note_labels(index, info)

    def _note_labels(self, index: int, info: Mapping[str, Any]) -> None:
        if self._success_key is not None:
            kept = self._buffers[SUCCESS][index] & (self.success_counts == "once")
            now = _number(info, self._success_key, 0, 2) == 1
            self._buffers[SUCCESS][index] = kept | now
        if self._mode_key is not None:
            label = _number(info, self._mode_key, -1, self._num_modes)
            if label is not None:
                self._buffers[MODE][index] = label

    def _forget_labels(self, index: int) -> None:
        for key, empty in ((SUCCESS, False), (MODE, -1)):
            if key in self._buffers:
                self._buffers[key][index] = empty

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


def _number(info: Mapping[str, Any], key: str, low: int, bound: int | None) -> int | None:
    """Return a whole number of the info; None where it says None, or nothing.

    Raises:
        ConfigurationError: if it is something else, or not in ``[low, bound)``.
    """
    found = info.get(key)
    if found is None:
        return None
    value = np.asarray(found)
    if value.size == 1 and value.dtype.kind in "biuf" and float(value.item()).is_integer():
        number = int(value.item())
        if number >= low and (bound is None or number < bound):
            return number
    end = "" if bound is None else f" and below {bound}"
    raise ConfigurationError(
        f"expected info[{key!r}] to be one whole number of at least {low}{end}, or None, got "
        f"{found!r}; let a wrapper translate it"
    )


def _make_one(env_id: str, env_options: dict[str, Any]) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id, **env_options)
    except gymnasium.error.UnregisteredEnv as error:
        sentence = f"Gymnasium does not know {env_id!r}: {error}"
        if "Did you mean" not in sentence:
            sentence = with_suggestion(sentence, env_id, gymnasium.registry)
        raise ConfigurationError(sentence) from error
    except (ImportError, TypeError) as error:  # no such module, or an option that it has not
        raise ConfigurationError(f"Gymnasium cannot make {env_id!r}: {error}") from error


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
    check_actions(env)
    keys = tuple(key for key, _ in observation_leaves(env.observation_space))
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
    horizon: int | None = None,
    execute: int = 8,
    offset: int = 0,
    success_key: str | None = None,
    mode_key: str | None = None,
    num_modes: int | None = None,
    success: Literal["once", "at_end"] = "once",
    num_envs: int = 16,
    **env_options: Any,
) -> Task:
    """Any Gymnasium environment with continuous actions as a task, whose time limit truncates.

    Success and mode are known only if the info of the environment gives them; an entry named
    ``success``, ``is_success`` or ``mode`` is found by one step in a probe.

    Args:
        env_id: id in Gymnasium's registry, ``module:id`` to import a module first.
        max_steps: time limit in environment steps; None takes the registered one.
        horizon: actions in a chunk; None takes the policy's.
        execute: actions of a chunk that are played.
        offset: first played action of a chunk.
        success_key: entry of the info that says whether the task is solved, if it has another name.
        mode_key: entry of the info that holds the mode's index, if it has another name.
        num_modes: number of modes, if known.
        success: whether an episode has succeeded if the info ever said so, or at its end, see
            :class:`GymnasiumEnv`.
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
    info_keys = {
        "success_key": success_key,
        "mode_key": mode_key,
        "num_modes": num_modes,
        "success": success,
    }
    return Task(
        name=env_id,
        make_env=partial(_make_env, env_id, env_options, info_keys),
        layout=Layout(
            max_steps=spec.max_episode_steps, horizon=horizon, execute=execute, offset=offset
        ),
        observation_keys=keys,
        num_modes=num_modes,
        num_envs=num_envs,
    )
