"""The simulation of our tasks, which are registered with ManiSkill when this module is imported.

It needs ManiSkill, and is imported by what makes simulations.
"""

from __future__ import annotations

from typing import Any

import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs.pose import Pose
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.base import Body, Step, TabletopTask, View

__all__ = ["TabletopEnv"]

QPOS_NOISE = 0.01  # about half a centimetre of the tool


class TabletopEnv(BaseEnv):
    """A task of ours: its bodies on a table, its judgement of each step, its observation.

    ``info`` holds ``success`` and ``mode`` ``[N]`` (-1 until it is decided), the position
    ``[N, 3]`` that the discoverer sees and, where the task may end in failure, ``fail`` ``[N]``.

    Args:
        pay_spread: how unequally the modes pay, see
            :meth:`~modereg_integrations.maniskill.tabletop.base.TabletopTask.pay`; 0 pays 1 for
            each.
        start_noise: what is moved at each reset is put up to so far from its place; None: a
            centimetre.

    Raises:
        ConfigurationError: if ``start_noise`` is given and nothing is moved.
    """

    SUPPORTED_REWARD_MODES = ("sparse", "none")
    task: TabletopTask

    def __init__(
        self,
        *args: Any,
        robot_uids: str | None = None,
        pay_spread: float = 0.0,
        start_noise: float | None = None,
        **kwargs: Any,
    ) -> None:
        if start_noise is not None and not any(body.noisy for body in self.task.bodies):
            raise ConfigurationError(
                f"expected no start_noise, as {self.task.env_id} moves nothing at a reset, got "
                f"{start_noise}; leave it out."
            )
        self._start_noise, self._pay = start_noise, self.task.pay(pay_spread)
        self._decided = torch.full((0, self.task.marks), -1)
        super().__init__(*args, robot_uids=robot_uids or self.task.robot, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        return [_camera("base_camera", self.task.sensor_view, 128)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        return _camera("render_camera", self.task.human_view, 512)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        noise = self.task.qpos_noise if self.task.start_qpos is None else 0
        self.table_scene = TableSceneBuilder(self, robot_init_qpos_noise=noise)
        self.table_scene.build()
        self.bodies = {body.name: self._build(body) for body in self.task.bodies}

    def _build(self, body: Body) -> Any:
        pose = sapien.Pose(p=body.place, q=body.quaternion)
        build = getattr(actors, f"build_{body.shape}")
        return build(self.scene, name=body.name, initial_pose=pose, **body.options)

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        rows = len(env_idx)
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            if self.task.start_qpos is not None:
                start = torch.tensor(self.task.start_qpos)
                self.agent.reset(start + QPOS_NOISE * torch.randn(rows, len(start)))
            for body in self.task.bodies:
                if body.noisy:
                    self._put(body, rows)
            if len(self._decided) != self.num_envs:
                self._decided = torch.full((self.num_envs, self.task.marks), -1)
                self._begins = torch.zeros(self.num_envs, 1, dtype=torch.bool)
                self._before: Tensor | None = None
            self._decided[env_idx] = -1
            self._begins[env_idx] = True
            self._any_begins = True

    def _put(self, body: Body, rows: int) -> None:
        noise = body.noise if self._start_noise is None else self._start_noise
        position = torch.tensor(body.place).repeat(rows, 1)
        position[:, : body.noisy] += noise * (2 * torch.rand(rows, body.noisy) - 1)
        self.bodies[body.name].set_pose(Pose.create_from_pq(position, body.quaternion))

    def evaluate(self) -> dict[str, Tensor]:
        """What the task says of a step, and the position that the discoverer sees."""
        now = self.task.watch(self)
        before = now if self._before is None else self._before
        if self._any_begins:
            before = torch.where(self._begins, now, before)
            self._begins, self._any_begins = torch.zeros_like(self._begins), False
        found = self.task.find(before, now).view(len(now), -1)
        self._decided = torch.where(self._decided < 0, found, self._decided)
        self._before = now.clone()
        judged = self.task.judge(self, Step(before, now, found, self._decided))
        return {**judged, self.task.shown: self.task.show(now)}

    def compute_sparse_reward(self, obs: Any, action: Tensor, info: dict[str, Tensor]) -> Tensor:
        """What the mode pays on success, else 0, ``[N]`` float."""
        pay = self._pay.to(info["mode"].device)
        return torch.where(info["success"], pay[info["mode"].clamp(min=0)], 0.0)

    def _get_obs_agent(self) -> dict[str, Tensor]:
        if self.task.robot != "panda":
            return {}
        return {"gripper_width": self.agent.robot.get_qpos()[:, -2:].sum(-1, keepdim=True)}

    def _get_obs_extra(self, info: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.task.observe(self, info, with_state=self.obs_mode_struct.use_state)


def _camera(name: str, view: View, size: int) -> CameraConfig:
    return CameraConfig(name, sapien_utils.look_at(*view), size, size, 1.0, 0.01, 100)


def _register(task: TabletopTask) -> None:
    members = {"task": task, "SUPPORTED_ROBOTS": [task.robot], "__doc__": type(task).__doc__}
    cls = type(f"{task.env_id.removesuffix('-v1')}Env", (TabletopEnv,), members)
    register_env(task.env_id, max_episode_steps=task.max_steps)(cls)


for _task in TASKS.values():
    _register(_task)
