"""What a task on the table is: what stands there, what is seen and judged, and how it is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION
from modereg.tasks.base import Demonstrations
from modereg.tasks.experts import Expert
from modereg.tasks.plots import Picture
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.scripted import Stage, StagedPlan, demonstrate

__all__ = ["Body", "Step", "TabletopTask", "View"]

Point = tuple[float, float, float]

START_NOISE = 0.01


class View(NamedTuple):
    """Where a camera stands and what it looks at, in metres."""

    eye: Point
    target: Point


@dataclass(frozen=True)
class Body:
    """Something on the table.

    Attributes:
        name: of its own.
        shape: the ``build_`` function of ``mani_skill.utils.building.actors`` that makes it.
        place: of its centre, in metres.
        options: further arguments of that function.
        quaternion: its orientation, real part first.
        noise: at each reset it is put up to so far from its place, in each of ``noisy`` axes.
        noisy: number of axes, x first; 0: it is never moved.
    """

    name: str
    shape: str
    place: Point
    options: Mapping[str, Any]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    noise: float = START_NOISE
    noisy: int = 0


class Step(NamedTuple):
    """What a step is judged by, of ``N`` rows.

    Attributes:
        before: what was watched before the step, ``[N, W]``; at the start, what is watched now.
        now: what is watched after it.
        found: what the step alone decides, ``[N, K]`` int64, -1 where nothing.
        decided: what the episode's first such steps decided.
    """

    before: Tensor
    now: Tensor
    found: Tensor
    decided: Tensor


class TabletopTask(ABC):
    """A task of a Panda at a table, in pure torch; everything a simulation needs to know of it.

    The start differs between episodes by a centimetre only, so one start state leads to every mode.
    Success is the one thing that is paid. Axes are the robot's: x points away from its base, y to
    its left, z up; lengths are metres.
    """

    env_id: str
    mode_names: tuple[str, ...]
    max_steps: int
    shown: ClassVar[str]
    """Entry of the info that the discoverer sees, a position ``[N, 3]``."""
    feature_noise: ClassVar[float]
    """See :class:`~modereg.tasks.base.Task`."""
    robot: ClassVar[Literal["panda", "panda_stick"]] = "panda"
    control_mode: ClassVar[str] = "pd_ee_delta_pos"
    start_qpos: ClassVar[tuple[float, ...] | None] = None
    """Joints of the arm at the start, up to about half a centimetre; None: the table's own."""
    qpos_noise: ClassVar[float] = 0.005
    """Of the table's own start, in radians."""
    sensor_view: ClassVar[View]
    human_view: ClassVar[View]
    marks: int = 1
    """How many decisions make the mode, ``K``."""

    @property
    def num_modes(self) -> int:
        """Number of modes ``M``."""
        return len(self.mode_names)

    @property
    @abstractmethod
    def bodies(self) -> Sequence[Body]:
        """What stands on the table."""

    @property
    @abstractmethod
    def picture(self) -> Picture:
        """Draws paths of what is shown, ``[N, T, 3]``."""

    @abstractmethod
    def watch(self, sim: Any) -> Tensor:
        """What steps are judged by, ``[N, W]``, of a simulation; what is shown comes first."""

    def show(self, now: Tensor) -> Tensor:
        """The position ``[N, 3]`` that the discoverer sees, from what is watched."""
        return now.clone()

    @abstractmethod
    def find(self, before: Tensor, now: Tensor) -> Tensor:
        """What a step decides of the mode, ``[*B]`` int64 or ``[*B, K]``, -1 where nothing.

        Args:
            before: ``[*B, W]``, what was watched before the step.
            now: after it.
        """

    @abstractmethod
    def judge(self, sim: Any, step: Step) -> dict[str, Tensor]:
        """``success`` and ``mode`` ``[N]`` after a step, and ``fail`` where the task has it."""

    @abstractmethod
    def observe(
        self, sim: Any, info: Mapping[str, Tensor], *, with_state: bool
    ) -> dict[str, Tensor]:
        """The observation, tool first."""

    def pay(self, spread: float) -> Tensor:
        """Pay of each mode, evenly from ``1 + spread`` for the first to ``1 - spread``, ``[M]``."""
        ends = (1 + spread, 1 - spread)
        return torch.linspace(*ends, self.num_modes, dtype=torch.float64).float()

    def stages(self, mode: int, start: TensorDictBase) -> list[Stage]:
        """Where the tool goes to show a mode, from a start of batch size ``[1]``."""
        raise NotImplementedError

    def expert(self, mode: int, start: TensorDictBase) -> Expert:
        """The scripted expert of one episode, deterministic in what it sees.

        Args:
            mode: the mode to show.
            start: what the environment shows at the start, batch size ``[1]``.

        Returns:
            From what the environment shows, batch size ``[1]``, to its action ``[A]``.

        Raises:
            ConfigurationError: for another mode.
        """
        self._check(mode)
        plan = StagedPlan(self.stages(mode, start))
        if self.robot == "panda":
            return lambda td: plan(td[OBSERVATION][0, 1:4])
        return lambda td: plan(td[OBSERVATION][0, :3])[:3]

    def _check(self, mode: int) -> None:
        if mode not in range(self.num_modes):
            raise ConfigurationError(
                f"{self.env_id} has the modes 0 to {self.num_modes - 1}, got {mode}; choose one."
            )

    def env(self, num_envs: int = 1, **options: Any) -> ManiSkillEnv:
        """The task with sparse reward, small pictures and, where it applies, the fast path.

        Args:
            num_envs: number of rows.
            options: as for :class:`~modereg_integrations.maniskill.env.ManiSkillEnv` and
                :class:`~modereg_integrations.maniskill.tabletop.scene.TabletopEnv`; ``max_steps``
                is None here, so that a transform sets the time limit.
        """
        defaults = {
            "control_mode": self.control_mode,
            "reward_mode": "sparse",
            "info_keys": (self.shown,),
            "max_steps": None,
            "fast": "auto",
            "render_size": (128, 128),
        }
        return ManiSkillEnv(self.env_id, num_envs, **(defaults | options))

    def demonstrate(
        self,
        num_episodes: int,
        seed: int,
        shares: Sequence[float] | Tensor | None = None,
        noise: float = 0.1,
        **options: Any,
    ) -> Demonstrations:
        """Episodes of the expert, see :func:`~modereg_integrations.maniskill.scripted.demonstrate`.

        Args:
            num_episodes: number of episodes ``N``.
            seed: seeds the starts, the order of modes and the noise.
            shares: ``[M]``, relative frequencies of the modes; None: equal.
            noise: standard deviation of the noise on the executed action, whose range is [-1, 1].
            options: as for :meth:`env`.

        Returns:
            Demonstrations of ``T = max_steps`` steps at most: ``observation`` ``[N, T + 1, O]``,
            what is shown ``[N, T + 1, 3]``, actions ``[N, T, A]``.

        Raises:
            ConfigurationError: if ``shares`` are not ``M`` non-negative numbers with a positive
                sum.
        """
        return demonstrate(
            partial(self.env, **options),
            self.expert,
            self.num_modes,
            num_episodes,
            seed,
            max_steps=self.max_steps,
            observed=(OBSERVATION, self.shown),
            shares=shares,
            noise=noise,
        )
