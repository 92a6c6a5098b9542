"""ManiSkill tasks for modereg: any by its id; ours come with their label and expert."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from tensordict import NestedKey

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Task
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.registry import OWN_TASKS

__all__ = ["make_task"]

NUM_ENVS = 16


def make_task(
    env_id: str,
    *,
    max_steps: int | None = None,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = NUM_ENVS,
    **options: Any,
) -> Task:
    """A ManiSkill task by its id; those of ours have a label and an expert, others have none.

    For one that is not ours, an environment is made and closed to find out its observation keys
    and time limit.

    Args:
        env_id: the id under which the task is registered.
        max_steps: environment steps of an episode; None: the task's registered limit.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and those of the
            task, if it is ours.

    Raises:
        ConfigurationError: if the task is unknown, or has no registered limit and none is given.
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
    """
    if env_id in OWN_TASKS:
        layout = {"horizon": horizon, "execute": execute, "num_envs": num_envs}
        limit = {} if max_steps is None else {"max_steps": max_steps}
        module = import_module(f"{__package__}.{OWN_TASKS[env_id]}.task")
        own: Task = module.make_task(env_id, **layout, **limit, **options)
        return own
    keys, registered = _probe(env_id, options)
    steps = max_steps or registered
    if steps is None:
        raise ConfigurationError(f"{env_id!r} has no registered time limit: give max_steps.")
    return Task(
        name=f"maniskill:{env_id}",
        make_env=partial(ManiSkillEnv, env_id, max_steps=steps, **options),
        max_steps=steps,
        horizon=horizon,
        execute=execute,
        observation_keys=keys,
        num_envs=num_envs,
    )


def _probe(env_id: str, options: dict[str, Any]) -> tuple[tuple[NestedKey, ...], int | None]:
    """Keys of the observation's leaves, and the registered limit."""
    env = ManiSkillEnv(env_id, 1, **{"max_steps": "registered", **options})
    keys = env.observation_spec.keys(include_nested=True, leaves_only=True)
    names = [key for key in keys if (key[0] if isinstance(key, tuple) else key) == OBSERVATION]
    env.close()
    return tuple(names), env.max_steps
