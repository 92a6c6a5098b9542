"""The tasks that ``mujoco:NAME`` names, and the maze as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.suggestions import with_suggestion
from modereg.tasks.base import Task
from modereg.tasks.experts import demonstrate
from modereg.tasks.plots import Picture
from modereg_integrations.mujoco.env import PointMaze
from modereg_integrations.mujoco.expert import lead_through
from modereg_integrations.mujoco.kitchen.task import kitchen_task
from modereg_integrations.mujoco.maze_geometry import (
    GOAL,
    GOAL_RADIUS,
    HALF_HEIGHT,
    HALF_WIDTH,
    MAX_STEPS,
    MODE_NAMES,
    NUM_MODES,
    wall_boxes,
)

__all__ = ["make_task", "maze_task"]

HORIZON = 8


def make_task(name: str = "point_maze", **options: Any) -> Task:
    """A task of MuJoCo's by its name: ``mujoco:point_maze`` or ``mujoco:kitchen``.

    Args:
        name: ``"point_maze"`` or ``"kitchen"``.
        options: of :func:`maze_task` or of
            :func:`~modereg_integrations.mujoco.kitchen.task.kitchen_task`.

    Raises:
        ConfigurationError: for another name, or an option that the task has not.
    """
    if name not in TASKS:
        sentence = f"expected a task of {', '.join(TASKS)}, got {name!r}"
        raise ConfigurationError(with_suggestion(sentence, name, TASKS))
    known = list(signature(TASKS[name]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        sentence = f"'mujoco:{name}' has no option {unknown[0]!r}; its options are "
        sentence += ", ".join(sorted(known))
        raise ConfigurationError(with_suggestion(sentence, unknown[0], known))
    return TASKS[name](**options)


def maze_task(
    *,
    pay_spread: float = 0.3,
    start_noise: float = 0.02,
    action_noise: float = 0.3,
    max_steps: int = MAX_STEPS,
    num_envs: int = 256,
) -> Task:
    """The maze, ``mujoco:point_maze``: six routes, chunks of 8 forces, all of them played.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.
    The discoverer sees positions.

    Args:
        pay_spread: how unequally the routes pay, see
            :func:`~modereg_integrations.mujoco.env.route_pay`.
        start_noise: half-width of the uniform noise on the start, in metres.
        action_noise: noise on the expert's executed actions, see
            :func:`~modereg.tasks.experts.demonstrate`.
        max_steps: environment steps of an episode.
        num_envs: sensible number of environments in a batch.
    """
    make_env = partial(
        PointMaze, start_noise=start_noise, max_steps=max_steps, pay_spread=pay_spread
    )
    return Task(
        name="mujoco:point_maze",
        make_env=make_env,
        layout=Layout(
            max_steps=max_steps,
            horizon=HORIZON,
            execute=HORIZON,
            feature_dims=(2, 3),
            time_limit="terminates",
        ),
        num_modes=NUM_MODES,
        mode_names=MODE_NAMES,
        demonstrate=partial(
            demonstrate, make_env, lead_through, NUM_MODES, action_noise=action_noise
        ),
        num_envs=num_envs,
        feature_noise=0.1,
        plot=Picture(
            NUM_MODES,
            xlim=(-HALF_WIDTH - 0.05, HALF_WIDTH + 0.05),
            ylim=(-HALF_HEIGHT - 0.05, HALF_HEIGHT + 0.05),
            obstacles=wall_boxes(),
            goals=[(*GOAL, GOAL_RADIUS)],
        ),
    )


TASKS: dict[str, Callable[..., Task]] = {"point_maze": maze_task, "kitchen": kitchen_task}
"""The tasks by their names."""
