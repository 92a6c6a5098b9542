"""The kitchen as a task for modereg."""

from __future__ import annotations

from functools import partial
from typing import Any

from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.tasks.base import Task
from modereg.tasks.experts import demonstrate
from modereg.tasks.plots import Picture
from modereg_integrations.mujoco.kitchen.env import HAND, MAX_STEPS, FrankaKitchen
from modereg_integrations.mujoco.kitchen.expert import SPREAD, lead_in_order
from modereg_integrations.mujoco.kitchen.subtasks import order_names

__all__ = ["kitchen_task"]

HORIZON, EXECUTE = 16, 8


def kitchen_task(
    *,
    subtasks: int = 3,
    pay_spread: float = 0.3,
    subtask_reward: bool = False,
    action_noise: float = 0.1,
    spread: float = SPREAD,
    max_steps: int | None = None,
    num_envs: int = 32,
) -> Task:
    """FrankaKitchen, ``mujoco:kitchen``: the order of subtasks; 8 of 16 actions are played.

    Running out of steps is a failure, so the steering policy and the critic see the elapsed time.
    The discoverer sees where the hand goes.

    Args:
        subtasks: how many of them, see
            :class:`~modereg_integrations.mujoco.kitchen.env.FrankaKitchen`: 3, of which there are 6
            orders, or 2 or 4, of which there are 2 or 24.
        pay_spread: how unequally the orders pay, see
            :func:`~modereg_integrations.mujoco.kitchen.env.order_pay`.
        subtask_reward: whether every subtask pays, as in FrankaKitchen-v1.
        action_noise: noise on the expert's executed actions, see
            :func:`~modereg.tasks.experts.demonstrate`.
        spread: standard deviation of the expert's way points, in metres.
        max_steps: environment steps of an episode; None: 200, 280 or 360.
        num_envs: sensible number of environments in a batch.

    Raises:
        ConfigurationError: for another number of subtasks.
    """
    if subtasks not in MAX_STEPS:
        raise ConfigurationError(f"expected 2, 3 or 4 subtasks, got {subtasks}; change subtasks.")
    names = order_names(subtasks)
    options: dict[str, Any] = {
        "subtasks": subtasks,
        "pay_spread": pay_spread,
        "subtask_reward": subtask_reward,
    }
    make_env = partial(FrankaKitchen, **options, max_steps=max_steps)
    lead = partial(lead_in_order, spread=spread)
    return Task(
        name="mujoco:kitchen",
        make_env=make_env,
        layout=Layout(
            max_steps=max_steps or MAX_STEPS[subtasks],
            horizon=HORIZON,
            execute=EXECUTE,
            feature_keys=(HAND,),
            time_limit="terminates",
        ),
        num_modes=len(names),
        mode_names=names,
        demonstrate=partial(demonstrate, make_env, lead, len(names), action_noise=action_noise),
        num_envs=num_envs,
        feature_noise=0.05,
        feature_names=("x", "y", "z"),
        plot=Picture(len(names), xlim=(-1.0, 0.6), ylim=(1.5, 2.8), dims=(0, 2)),
    )
