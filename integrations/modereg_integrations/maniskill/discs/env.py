"""ModeregDiscs-v1: a robot places a cube on one of four discs.

A task of ours, registered with ManiSkill when this module is imported (which needs ManiSkill).
Axes are the robot's: x points away from its base, y to its left, z up; lengths in metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.robots import Panda
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg_integrations.maniskill.discs.geometry import (
    CUBE_HALF_SIZE,
    CUBE_START,
    DISC_RADIUS,
    DISCS,
    MAX_STEPS,
    START_NOISE,
    disc_pay,
    placed_on,
)

__all__ = ["ModeregDiscsEnv"]

COLORS = ([0.0, 0.45, 0.7, 1], [0.9, 0.62, 0.0, 1], [0.0, 0.62, 0.45, 1], [0.8, 0.47, 0.65, 1])


@register_env("ModeregDiscs-v1", max_episode_steps=MAX_STEPS)
class ModeregDiscsEnv(BaseEnv):
    """Pick a cube and place it on any of four discs around it.

    The start differs between episodes by a centimetre only, so one start state leads to every
    mode. Success, the one thing that is paid, is the cube on the table within 3 cm of a disc's
    centre, in the gripper or not. The mode is that disc, and -1 before: 0 near left, 1 near right,
    2 far left, 3 far right, as the robot sees them.

    State observation ``[N, 10]``: opening of the gripper, position of the tool, position of the
    cube, from the tool to the cube (the discs stand still, and orientations barely change).
    ``info`` also holds ``cube_position`` ``[N, 3]``.

    Args:
        pay_spread: the discs pay from ``1 + pay_spread`` down to ``1 - pay_spread``, equally
            spaced; 0 pays 1 for each.
    """

    SUPPORTED_ROBOTS = ["panda"]  # noqa: RUF012
    SUPPORTED_REWARD_MODES = ("sparse", "none")
    agent: Panda

    def __init__(
        self, *args: Any, robot_uids: str = "panda", pay_spread: float = 0.0, **kwargs: Any
    ) -> None:
        self._mode = torch.full((0,), -1)
        self._pay = disc_pay(pay_spread)
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        pose = sapien_utils.look_at(eye=(0.3, 0.0, 0.4), target=(-0.08, 0.0, 0.03))
        return [CameraConfig("base_camera", pose, 128, 128, 1.0, 0.01, 100)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        pose = sapien_utils.look_at(eye=(0.32, 0.15, 0.4), target=(-0.1, 0.0, 0.04))
        return CameraConfig("render_camera", pose, 512, 512, 1, 0.01, 100)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.table_scene = TableSceneBuilder(self, robot_init_qpos_noise=0.005)
        self.table_scene.build()
        self.cube = actors.build_cube(
            self.scene,
            half_size=CUBE_HALF_SIZE,
            color=[0.9, 0.2, 0.2, 1],
            name="cube",
            initial_pose=sapien.Pose(p=[*CUBE_START, CUBE_HALF_SIZE]),
        )
        for index, (centre, color) in enumerate(zip(DISCS, COLORS)):
            actors.build_cylinder(
                self.scene,
                radius=DISC_RADIUS,
                half_length=1e-3,
                color=color,
                name=f"disc_{index}",
                body_type="static",
                add_collision=False,
                initial_pose=sapien.Pose(p=[*centre, 1e-3], q=[np.sqrt(0.5), 0, np.sqrt(0.5), 0]),
            )

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            position = torch.full((len(env_idx), 3), CUBE_HALF_SIZE)
            noise = START_NOISE * (2 * torch.rand(len(env_idx), 2) - 1)
            position[:, :2] = torch.tensor(CUBE_START) + noise
            self.cube.set_pose(Pose.create_from_pq(position))
            if len(self._mode) != self.num_envs:
                self._mode = torch.full((self.num_envs,), -1)
            self._mode[env_idx] = -1

    def evaluate(self) -> dict[str, Tensor]:
        """Success ``[N]``, mode ``[N]`` and position of the cube ``[N, 3]`` after a step."""
        position = self.cube.pose.p
        disc = placed_on(position)
        self._mode = torch.where(self._mode < 0, disc, self._mode)
        return {
            "success": disc >= 0,
            "mode": self._mode.clone(),
            "cube_position": position.clone(),
        }

    def compute_sparse_reward(self, obs: Any, action: Tensor, info: dict[str, Tensor]) -> Tensor:
        """What the mode pays on success, else 0, ``[N]`` float."""
        pay = self._pay.to(info["mode"].device)
        return torch.where(info["success"], pay[info["mode"].clamp(min=0)], 0.0)

    def _get_obs_agent(self) -> dict[str, Tensor]:
        return {"gripper_width": self.agent.robot.get_qpos()[:, -2:].sum(-1, keepdim=True)}

    def _get_obs_extra(self, info: dict[str, Tensor]) -> dict[str, Tensor]:
        tool = self.agent.tcp.pose.p
        if not self.obs_mode_struct.use_state:
            return {"tcp_position": tool}
        cube = info["cube_position"]
        return {"tcp_position": tool, "cube_position": cube, "tcp_to_cube": cube - tool}
