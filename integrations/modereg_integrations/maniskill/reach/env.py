"""ModeregReach-v1: a robot's stick reaches a goal behind an obstacle, around its left or right.

A task of ours, registered with ManiSkill when this module is imported (which needs ManiSkill).
Axes are the robot's: x points away from its base, y to its left, z up; lengths in metres.
"""

from __future__ import annotations

from typing import Any

import sapien
import torch
from mani_skill.agents.robots import PandaStick
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg_integrations.maniskill.reach.geometry import (
    GOAL,
    GOAL_NOISE,
    GOAL_RADIUS,
    MAX_STEPS,
    OBSTACLE_HALF_SIZE,
    OBSTACLE_X,
    OVER,
    passing_side,
)

__all__ = ["ModeregReachEnv"]

START_QPOS = (0.0, 0.1057, 0.0, -2.5519, 0.0, 2.6576, 0.7854)  # the tool at START, pointing down
QPOS_NOISE = 0.01
TOUCH = 0.01  # newtons


@register_env("ModeregReach-v1", max_episode_steps=MAX_STEPS)
class ModeregReachEnv(BaseEnv):
    """Bring the tip of a stick to a goal behind an obstacle.

    The start and the goal differ between episodes by a centimetre only, so one start state leads
    to both modes. Success, the one thing that is paid, is the tip in the goal. Touching the
    obstacle, with any part of the robot, ends the episode as a failure, and so does passing over
    it; it is so high that the hand has to go around it as well. The mode is the side on which the
    tip first crossed the obstacle's plane: 0 left, 1 right, and -1 before that.

    State observation ``[N, 6]``: position of the tip, and from the tip to the goal. ``info`` also
    holds ``tip_position`` ``[N, 3]`` and ``fail`` ``[N]``.

    Args:
        pay_spread: the modes pay ``1 + pay_spread`` and ``1 - pay_spread``; 0 pays 1 for each.
    """

    SUPPORTED_ROBOTS = ["panda_stick"]  # noqa: RUF012
    SUPPORTED_REWARD_MODES = ("sparse", "none")
    agent: PandaStick

    def __init__(
        self, *args: Any, robot_uids: str = "panda_stick", pay_spread: float = 0.0, **kwargs: Any
    ) -> None:
        self._side = torch.full((0,), -1)
        self._pay = (1 + pay_spread, 1 - pay_spread)
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        pose = sapien_utils.look_at(eye=(0.4, 0.0, 0.5), target=(-0.06, 0.0, 0.05))
        return [CameraConfig("base_camera", pose, 128, 128, 1.0, 0.01, 100)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        pose = sapien_utils.look_at(eye=(0.5, 0.0, 0.55), target=(-0.08, 0.0, 0.1))
        return CameraConfig("render_camera", pose, 512, 512, 1, 0.01, 100)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.table_scene = TableSceneBuilder(self, robot_init_qpos_noise=0)
        self.table_scene.build()
        self.obstacle = actors.build_box(
            self.scene,
            half_sizes=list(OBSTACLE_HALF_SIZE),
            color=[0.3, 0.3, 0.4, 1],
            name="obstacle",
            body_type="kinematic",
            initial_pose=sapien.Pose(p=[OBSTACLE_X, 0, OBSTACLE_HALF_SIZE[2]]),
        )
        self.goal_site = actors.build_sphere(
            self.scene,
            radius=GOAL_RADIUS,
            color=[0.2, 0.8, 0.3, 1],
            name="goal",
            body_type="kinematic",
            add_collision=False,
            initial_pose=sapien.Pose(p=list(GOAL)),
        )

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        rows = len(env_idx)
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            self.agent.reset(torch.tensor(START_QPOS) + QPOS_NOISE * torch.randn(rows, 7))
            goal = torch.tensor(GOAL) + GOAL_NOISE * (2 * torch.rand(rows, 3) - 1)
            self.goal_site.set_pose(Pose.create_from_pq(goal))
            if len(self._side) != self.num_envs:
                self._side = torch.full((self.num_envs,), -1)
                self._previous = torch.zeros(self.num_envs, 3)
            self._side[env_idx] = -1
            self._previous[env_idx] = -torch.inf  # nothing is crossed from nowhere

    def evaluate(self) -> dict[str, Tensor]:
        """Success, failure and mode ``[N]``, and position of the tip ``[N, 3]``, after a step."""
        tip = self.agent.tcp.pose.p
        crossed = passing_side(torch.where(self._previous.isfinite(), self._previous, tip), tip)
        self._side = torch.where(self._side < 0, crossed, self._side)
        self._previous = tip.clone()
        touched = self.obstacle.get_net_contact_forces().norm(dim=-1) > TOUCH
        fail = touched | (self._side == OVER)
        near = (self.goal_site.pose.p - tip).norm(dim=-1) < GOAL_RADIUS
        mode = torch.where(self._side == OVER, -1, self._side)
        success = near & (mode >= 0) & ~fail
        return {"success": success, "fail": fail, "mode": mode, "tip_position": tip.clone()}

    def compute_sparse_reward(self, obs: Any, action: Tensor, info: dict[str, Tensor]) -> Tensor:
        """What the mode pays on success, else 0, ``[N]`` float."""
        pay = torch.tensor(self._pay, device=info["mode"].device)
        return torch.where(info["success"], pay[info["mode"].clamp(min=0)], 0.0)

    def _get_obs_agent(self) -> dict[str, Tensor]:
        return {}

    def _get_obs_extra(self, info: dict[str, Tensor]) -> dict[str, Tensor]:
        tip = info["tip_position"]
        return {"tip_position": tip, "tip_to_goal": self.goal_site.pose.p - tip}
