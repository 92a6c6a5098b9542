"""ModeregLiftPeg-v1: a robot stands a peg that lies on the table on one of its two ends.

A task of ours on the scene of ManiSkill's ``LiftPegUpright-v1``, registered with ManiSkill when
this module is imported (which needs ManiSkill). Axes are the robot's: x points away from its base,
y to its left, z up; lengths in metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mani_skill.agents.robots import Panda
from mani_skill.envs.tasks.tabletop.lift_peg_upright import LiftPegUprightEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.geometry.rotation_conversions import quaternion_to_matrix
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg_integrations.maniskill.lift_peg.geometry import (
    HALF_LENGTH,
    HALF_WIDTH,
    MAX_STEPS,
    PEG_START,
    START_NOISE,
    standing_mode,
)

__all__ = ["ModeregLiftPegEnv"]

LYING = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)  # as in the stock task: the axis along x


@register_env("ModeregLiftPeg-v1", max_episode_steps=MAX_STEPS)
class ModeregLiftPegEnv(LiftPegUprightEnv):
    """Take a peg that lies on the table and stand it up, its blue or its red end above.

    Success, the one thing that is paid, is a peg upright to .08 rad with its lower end within
    5 mm of the table, in the gripper or not; its mode is the end above, 0 blue and 1 red, and -1
    before. The stock task asks for an Euler angle instead, which a peg held flat along y at the
    right height has as well, while one that stands turned about its axis may lack it; that is why
    this is a task of its own and ``LiftPegUpright-v1`` stays what ManiSkill made it. The time
    limit is longer too, as the hand has to turn by 120 degrees, at about 3 degrees a step.

    State observation ``[N, 16]``: opening of the gripper, position of the tool, x and z axis of
    the hand, position of the peg, unit vector from its red end to its blue one. ``info`` also
    holds ``peg_tip`` ``[N, 3]``, the position of the blue end.

    Args:
        pay_spread: the modes pay ``1 + pay_spread`` and ``1 - pay_spread``; 0 pays 1 for each.
        start_noise: the peg's start differs by up to so much in x and y; the stock task's by 0.1.
    """

    SUPPORTED_ROBOTS = ["panda"]  # noqa: RUF012
    SUPPORTED_REWARD_MODES = ("sparse", "none")
    agent: Panda

    def __init__(
        self,
        *args: Any,
        pay_spread: float = 0.0,
        start_noise: float = START_NOISE,
        robot_init_qpos_noise: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self._mode = torch.full((0,), -1)
        self._pay = (1 + pay_spread, 1 - pay_spread)
        self._start_noise = start_noise
        super().__init__(*args, robot_init_qpos_noise=robot_init_qpos_noise, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        pose = sapien_utils.look_at(eye=(0.5, 0.0, 0.45), target=(-0.05, 0.0, 0.1))
        return [CameraConfig("base_camera", pose, 128, 128, 1.0, 0.01, 100)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        pose = sapien_utils.look_at(eye=(0.65, 0.3, 0.5), target=(-0.1, 0.0, 0.15))
        return CameraConfig("render_camera", pose, 512, 512, 1, 0.01, 100)

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            position = torch.full((len(env_idx), 3), HALF_WIDTH)
            noise = self._start_noise * (2 * torch.rand(len(env_idx), 2) - 1)
            position[:, :2] = torch.tensor(PEG_START) + noise
            self.peg.set_pose(Pose.create_from_pq(position, LYING))
            if len(self._mode) != self.num_envs:
                self._mode = torch.full((self.num_envs,), -1)
            self._mode[env_idx] = -1

    def evaluate(self) -> dict[str, Tensor]:
        """Success ``[N]``, mode ``[N]`` and the position of the blue end ``[N, 3]``."""
        position, axis = self.peg.pose.p, self._peg_axis()
        standing = standing_mode(position, axis)
        self._mode = torch.where(self._mode < 0, standing, self._mode)
        tip = position + HALF_LENGTH * axis
        return {"success": standing >= 0, "mode": self._mode.clone(), "peg_tip": tip}

    def compute_sparse_reward(self, obs: Any, action: Tensor, info: dict[str, Tensor]) -> Tensor:
        """What the mode pays on success, else 0, ``[N]`` float."""
        pay = torch.tensor(self._pay, device=info["mode"].device)
        return torch.where(info["success"], pay[info["mode"].clamp(min=0)], 0.0)

    def _peg_axis(self) -> Tensor:
        axis: Tensor = quaternion_to_matrix(self.peg.pose.q)[..., 0]
        return axis

    def _get_obs_agent(self) -> dict[str, Tensor]:
        return {"gripper_width": self.agent.robot.get_qpos()[:, -2:].sum(-1, keepdim=True)}

    def _get_obs_extra(self, info: dict[str, Tensor]) -> dict[str, Tensor]:
        tool = self.agent.tcp.pose
        hand = quaternion_to_matrix(tool.q)
        seen = {"tcp_position": tool.p, "hand_x": hand[..., 0], "hand_z": hand[..., 2]}
        if not self.obs_mode_struct.use_state:
            return seen
        return seen | {"peg_position": self.peg.pose.p, "peg_axis": self._peg_axis()}
