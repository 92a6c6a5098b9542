"""ManiSkill tasks for modereg: any by its id, and the wall task with its label and expert."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tensordict import NestedKey
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import ELAPSED, OBSERVATION
from modereg.tasks.base import Task
from modereg.tasks.plots import plot_trajectories
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.wall_expert import (
    CUBE_POSITION,
    ENV_ID,
    demonstrate_wall,
    make_wall_env,
)
from modereg_integrations.maniskill.wall_geometry import (
    MAX_STEPS,
    MODE_NAMES,
    WALL_HALF_SIZE,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["make_task", "plot_wall", "wall_task"]

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
    """A ManiSkill task by its id; ``"ModeregWall-v1"`` is :func:`wall_task`, others have no label.

    One environment is made and closed to find out its observation keys and time limit.

    Args:
        env_id: the id under which the task is registered.
        max_steps: environment steps of an episode; None: the task's registered limit.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`.

    Raises:
        ConfigurationError: if the task is unknown, or has no registered limit and none is given.
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
    """
    if env_id == ENV_ID:
        return wall_task(
            max_steps=max_steps or MAX_STEPS,
            horizon=horizon,
            execute=execute,
            num_envs=num_envs,
            **options,
        )
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


def wall_task(
    *,
    max_steps: int = MAX_STEPS,
    horizon: int = 8,
    execute: int = 4,
    num_envs: int = NUM_ENVS,
    **options: Any,
) -> Task:
    """The wall task: three modes (left, right, over), seen by the position of the cube.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.

    Args:
        max_steps: environment steps of an episode.
        horizon: actions in a chunk.
        execute: actions of a chunk that are played.
        num_envs: sensible number of environments in a batch.
        options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv`, and
            ``pay_spread``: success pays 1 plus it on the left, 1 minus it over the wall.
    """
    return Task(
        name=f"maniskill:{ENV_ID}",
        make_env=partial(make_wall_env, **options),
        max_steps=max_steps,
        horizon=horizon,
        execute=execute,
        observation_keys=(OBSERVATION,),
        steering_keys=(OBSERVATION, ELAPSED),
        feature_keys=(CUBE_POSITION,),
        num_modes=len(MODE_NAMES),
        mode_names=MODE_NAMES,
        demonstrate=demonstrate_wall,
        time_limit="terminates",
        num_envs=num_envs,
        feature_noise=0.02,
        plot=plot_wall,
    )


def plot_wall(
    ax: Axes,
    observations: Tensor,
    modes: Tensor,
    *,
    lengths: Tensor | None = None,
    limit: int = 400,
) -> None:
    """Draws the cube's paths as the robot sees them, with the wall, coloured by mode.

    Args:
        ax: matplotlib axes.
        observations: ``[N, T, 3]``, positions of the cube in metres.
        modes: ``[N]`` int64.
        lengths: ``[N]`` int64, valid observations of each episode; None for all.
        limit: draw the first so many episodes only.
    """
    from matplotlib.patches import Rectangle

    plot_trajectories(
        ax, observations, modes, num_modes=len(MODE_NAMES), lengths=lengths, limit=limit
    )
    _, half_width, half_height = WALL_HALF_SIZE
    corner, width, height = (-half_width, 0), 2 * half_width, 2 * half_height
    ax.add_patch(Rectangle(corner, width, height, color="0.85", zorder=0))
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(xlim=(0.22, -0.22), ylim=(-0.01, 0.2), aspect="equal", xticks=[], yticks=[])


def _probe(env_id: str, options: dict[str, Any]) -> tuple[tuple[NestedKey, ...], int | None]:
    """Keys of the observation's leaves, and the registered limit."""
    env = ManiSkillEnv(env_id, 1, **{"max_steps": "registered", **options})
    keys = env.observation_spec.keys(include_nested=True, leaves_only=True)
    names = [key for key in keys if (key[0] if isinstance(key, tuple) else key) == OBSERVATION]
    env.close()
    return tuple(names), env.max_steps
