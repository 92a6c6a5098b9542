"""ManiSkill tasks for modereg: any by its id; ours come with their label and expert."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tensordict import NestedKey

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.layout import Layout
from modereg.tasks.base import Task
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.base import TabletopTask

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
            task, if it is ours: ``pay_spread`` and ``start_noise``, see
            :class:`~modereg_integrations.maniskill.tabletop.scene.TabletopEnv`.

    Raises:
        ConfigurationError: if the task is unknown, or has no registered limit and none is given.
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
    """
    own = TASKS.get(env_id)
    known: dict[str, Any]
    layout: dict[str, Any]
    if own is None:
        given = {"max_steps": max_steps or "registered", **options}
        make_env: Callable[..., ManiSkillEnv] = partial(ManiSkillEnv, env_id, **given)
        keys, steps = _probe(make_env)
        known, layout = {"observation_keys": keys}, {}
    else:
        make_env, steps = partial(own.env, **options), max_steps or own.max_steps
        known = _known(own, options)
        # Running out of steps is a failure: steering policy and critic see the elapsed time.
        layout = {"feature_keys": (own.shown,), "time_limit": "terminates"}
    if steps is None:
        raise ConfigurationError(f"{env_id!r} has no registered time limit: give max_steps.")
    return Task(
        name=f"maniskill:{env_id}",
        make_env=make_env,
        layout=Layout(max_steps=steps, horizon=horizon, execute=execute, **layout),
        num_envs=num_envs,
        **known,
    )


def _known(task: TabletopTask, options: dict[str, Any]) -> dict[str, Any]:
    """What is known of a task of ours."""
    shown = {key: value for key, value in options.items() if key in ("start_noise", "pay_spread")}
    return {
        "observation_keys": (OBSERVATION,),
        "feature_names": ("x", "y", "z"),
        "num_modes": task.num_modes,
        "mode_names": task.mode_names,
        "demonstrate": partial(task.demonstrate, **shown),
        "feature_noise": task.feature_noise,
        "plot": task.picture,
        "renders": True,
    }


def _probe(make_env: Callable[..., ManiSkillEnv]) -> tuple[tuple[NestedKey, ...], int | None]:
    """Keys of the observation's leaves, and the registered limit."""
    env = make_env(1)
    keys = env.observation_spec.keys(include_nested=True, leaves_only=True)
    names = [key for key in keys if (key[0] if isinstance(key, tuple) else key) == OBSERVATION]
    env.close()
    return tuple(names), env.max_steps
