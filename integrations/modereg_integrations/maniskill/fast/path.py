"""The fast path of one CPU simulation: ManiSkill's expensive methods replaced on its objects.

The controllers, the poses of actors and links, and whether the Panda grasps something go through
SAPIEN and numpy. Only objects of the given simulation change, none of ManiSkill's classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mani_skill.agents.controllers.base_controller import CombinedController
from mani_skill.agents.multi_agent import MultiAgent
from mani_skill.agents.robots import Panda
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.maniskill.fast.bodies import bodies, faster_class, is_grasping
from modereg_integrations.maniskill.fast.control import Actuator, actuator, unsupported

__all__ = ["FastPath", "obstacle"]


class FastPath:
    """Makes a simulation faster, until :meth:`remove`.

    Args:
        sim: an unwrapped ManiSkill environment of one row on the CPU.

    Raises:
        ConfigurationError: if it is on a GPU, has several robots, or a controller other than
            joint positions and end-effector positions or poses without a virtual target.
    """

    def __init__(self, sim: Any) -> None:
        found = obstacle(sim)
        if found is not None:
            raise ConfigurationError(
                "The fast path needs one CPU simulation of one robot with joint-position or "
                "end-effector controllers that keep no target (such as control_mode "
                f"'pd_ee_delta_pos' or 'pd_joint_delta_pos'), got {found}; leave fast=False."
            )
        self._sim = sim
        self._undo: list[Callable[[], None]] = []
        self._install()
        after = sim._after_reconfigure

        def reconfigured(options: dict[str, Any]) -> None:
            after(options)
            self._restore()
            self._install()

        sim._after_reconfigure = reconfigured

    def remove(self) -> None:
        """Give the simulation its own methods back."""
        self._restore()
        vars(self._sim).pop("_after_reconfigure", None)

    def _install(self) -> None:
        agent = self._sim.agent
        for body, attribute in bodies(self._sim.scene):
            former: Any = type(body)
            self._exchange_class(body, faster_class(former, attribute))
        if type(agent).is_grasping is Panda.is_grasping:
            self._replace(agent, "is_grasping", is_grasping(agent))
        self._replace(agent, "set_action", _act(agent))
        self._replace(agent.controller, "set_action", _control(agent.controller))
        # the supported controllers do not interpolate
        self._replace(agent.controller, "before_simulation_step", lambda: None)

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        setattr(owner, name, method)
        self._undo.append(lambda: vars(owner).pop(name, None))

    def _exchange_class(self, body: Any, cls: type) -> None:
        former, body.__class__ = body.__class__, cls
        self._undo.append(lambda: setattr(body, "__class__", former))


def obstacle(sim: Any) -> str | None:
    """What about an unwrapped ManiSkill environment the fast path does not know, or None."""
    if sim.gpu_sim_enabled or sim.num_envs != 1:
        return f"{sim.num_envs} rows on {sim.device}"
    if isinstance(sim.agent, MultiAgent):
        return f"{len(sim.agent.agents)} robots"
    if sim.agent is None or not isinstance(sim.agent.controller, CombinedController):
        return f"the controller {getattr(sim.agent, 'controller', None)}"
    parts = sim.agent.controller.controllers.values()
    return next(filter(None, map(unsupported, parts)), None)


def _act(agent: Any) -> Callable[[Tensor], None]:
    def set_action(action: Tensor) -> None:
        if np.isnan(action.numpy()).any():
            raise ValueError("Action cannot be NaN. Environment received:", action)
        agent.controller.set_action(action)

    return set_action


def _control(controller: Any) -> Callable[[Tensor], None]:
    robot = controller.articulation._objs[0]
    size = controller.action_space.shape[0]
    parts: list[tuple[slice, Actuator]] = [
        (slice(*controller.action_mapping[name]), actuator(part))
        for name, part in controller.controllers.items()
    ]

    def set_action(action: Tensor) -> None:
        if action.shape != (1, size):
            raise ValueError(f"expected an action of shape (1, {size}), got {tuple(action.shape)}")
        qpos, row = robot.qpos, action.numpy()[0]
        for piece, drive in parts:
            drive(row[piece], qpos)

    return set_action
