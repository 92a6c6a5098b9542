"""ModeregPosts6-v1 and ModeregPosts24-v1: a robot's stick goes between rows of posts.

Tasks of ours, registered with ManiSkill when this module is imported (which needs ManiSkill).
Axes are the robot's: x points away from its base, y to its left, z up; lengths in metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.robots import PandaStick
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from torch import Tensor

from modereg_integrations.maniskill.posts.geometry import (
    GRAZE,
    POST_HEIGHT,
    POST_RADIUS,
    POSTS,
    Posts,
)

__all__ = ["ModeregPosts24Env", "ModeregPosts6Env"]  # noqa: RUF022 (as the package sorts)

START_QPOS = (0.0, -0.0803, 0.0, -2.8954, 0.0, 2.8108, 0.7857)
START_QPOS_NOISE = 0.01  # about half a centimetre of the tip


class _PostsEnv(BaseEnv):
    """Move the tip of a stick past rows of posts and over the goal line, touching none.

    The start differs between episodes by a centimetre only, so one start state leads to every
    mode. Success, the one thing that is paid, is the tip beyond the goal line. Touching a post ends
    the episode as a failure, as in Avoid, however high the tip is: stick and posts are judged from
    above, on the straight line from where the tip was a step before. The mode says through which
    gap of each row the tip went, see :class:`~modereg_integrations.maniskill.posts.geometry.Posts`,
    and is -1 until the last row is crossed.

    State observation ``[N, 6]``: position and velocity of the tip, in metres (a second). ``info``
    also holds ``tip_position`` ``[N, 3]`` and ``fail`` ``[N]``.

    Args:
        pay_spread: the modes pay from ``1 - pay_spread`` (the last row's gap on the far right) to
            ``1 + pay_spread`` (on the far left); 0 pays 1 for each.
    """

    SUPPORTED_ROBOTS = ["panda_stick"]  # noqa: RUF012
    SUPPORTED_REWARD_MODES = ("sparse", "none")
    agent: PandaStick
    posts: Posts

    def __init__(
        self, *args: Any, robot_uids: str = "panda_stick", pay_spread: float = 0.0, **kwargs: Any
    ) -> None:
        self._digits = torch.full((0, len(self.posts.rows)), -1)
        self._pay = self.posts.pay(pay_spread)
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        pose = sapien_utils.look_at(eye=(0.4, 0.0, 0.5), target=(-0.08, 0.0, 0.0))
        return [CameraConfig("base_camera", pose, 128, 128, 1.0, 0.01, 100)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        pose = sapien_utils.look_at(eye=(0.4, 0.0, 0.66), target=(-0.09, 0.0, 0.03))
        return CameraConfig("render_camera", pose, 512, 512, 1, 0.01, 100)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.table_scene = TableSceneBuilder(self, robot_init_qpos_noise=0)
        self.table_scene.build()
        upright = [np.sqrt(0.5), 0, np.sqrt(0.5), 0]
        for index, centre in enumerate(self.posts.positions.tolist()):
            actors.build_cylinder(
                self.scene,
                radius=POST_RADIUS,
                half_length=POST_HEIGHT / 2,
                color=[0.3, 0.3, 0.4, 1],
                name=f"post_{index}",
                body_type="static",
                initial_pose=sapien.Pose(p=[*centre, POST_HEIGHT / 2], q=upright),
            )
        actors.build_box(
            self.scene,
            half_sizes=[0.003, 0.3, 1e-3],
            color=[0.2, 0.8, 0.3, 1],
            name="goal_line",
            body_type="static",
            add_collision=False,
            initial_pose=sapien.Pose(p=[self.posts.goal_x, 0, 1e-3]),
        )

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            noise = START_QPOS_NOISE * torch.randn(len(env_idx), len(START_QPOS))
            self.agent.reset(torch.tensor(START_QPOS) + noise)
            if len(self._digits) != self.num_envs:
                self._digits = torch.full((self.num_envs, len(self.posts.rows)), -1)
                self._previous = torch.zeros(self.num_envs, 3)
                self._begins = torch.ones(self.num_envs, dtype=torch.bool)
            self._digits[env_idx] = -1
            self._begins[env_idx] = True

    def evaluate(self) -> dict[str, Tensor]:
        """Success, failure and mode ``[N]``, and position of the tip ``[N, 3]``, after a step."""
        tip = self.agent.tcp.pose.p
        before = torch.where(self._begins[:, None], tip, self._previous)
        crossed = self.posts.crossed(before, tip)
        self._digits = torch.where(self._digits < 0, crossed, self._digits)
        self._previous, self._begins = tip.clone(), torch.zeros_like(self._begins)
        mode = self.posts.mode(self._digits)
        fail = self.posts.clearance(before, tip) < GRAZE
        success = (tip[:, 0] > self.posts.goal_x) & (mode >= 0) & ~fail
        return {"success": success, "fail": fail, "mode": mode, "tip_position": tip.clone()}

    def compute_sparse_reward(self, obs: Any, action: Tensor, info: dict[str, Tensor]) -> Tensor:
        """What the mode pays on success, else 0, ``[N]`` float."""
        pay = self._pay.to(info["mode"].device)
        return torch.where(info["success"], pay[info["mode"].clamp(min=0)], 0.0)

    def _get_obs_agent(self) -> dict[str, Tensor]:
        return {}

    def _get_obs_extra(self, info: dict[str, Tensor]) -> dict[str, Tensor]:
        velocity = self.agent.tcp.get_linear_velocity()
        return {"tip_position": info["tip_position"], "tip_velocity": velocity}


@register_env("ModeregPosts6-v1", max_episode_steps=POSTS["ModeregPosts6-v1"].max_steps)
class ModeregPosts6Env(_PostsEnv):
    """One post, then two: 6 modes. See the base class."""

    posts = POSTS["ModeregPosts6-v1"]


@register_env("ModeregPosts24-v1", max_episode_steps=POSTS["ModeregPosts24-v1"].max_steps)
class ModeregPosts24Env(_PostsEnv):
    """One post, then two, then three, as in Avoid: 24 modes. See the base class."""

    posts = POSTS["ModeregPosts24-v1"]
