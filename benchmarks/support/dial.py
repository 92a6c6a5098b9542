"""Goals around a start, as many as one likes, under actions of as many dimensions as one likes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded

from modereg import keys
from modereg.layout import Layout
from modereg.tasks.base import Task
from modereg.tasks.experts import Expert, demonstrate
from modereg.tasks.planar import PlanarEnv

__all__ = ["Dial", "dial"]

MAX_STEPS, EXECUTE = 24, 4
REACHED = 0.4
"""An episode succeeds within so much of half of the way between two goals."""


class Dial(PlanarEnv):
    """A point at the centre of a circle, and goals on it, one a mode.

    The plane that it moves in is a random one of the space of the actions; what an action does
    beside it is lost, as it is with the joints that a robot does not have.

    Args:
        num_envs: batch size ``N``.
        modes: number of goals.
        action_dims: dimensions of an action, at least 2.
        **options: further ones of :class:`~modereg.tasks.planar.PlanarEnv`.
    """

    def __init__(self, num_envs: int, *, modes: int, action_dims: int, **options: Any) -> None:
        generator = torch.Generator().manual_seed(action_dims)
        square = torch.randn(action_dims, action_dims, generator=generator)
        self.plane = torch.linalg.qr(square)[0][:, :2]
        angles = torch.arange(modes) * (2 * math.pi / modes)
        self.goals = torch.stack([angles.cos(), angles.sin()], -1)
        self.radius = REACHED * float((self.goals[0] - self.goals[1]).norm())
        usual: dict[str, Any] = {"start_noise": 0.02, "max_delta": 0.08, "max_steps": MAX_STEPS}
        start = (0.0, 0.0)
        super().__init__(
            num_envs, start=start, tracking=1.0, pay=torch.ones(modes), **usual | options
        )

    def _make_specs(self) -> None:
        super()._make_specs()
        shape = (*self.batch_size, len(self.plane))
        bounds = {"device": self.device, "dtype": self._dtype}
        self.action_spec = Bounded(-self.max_delta, self.max_delta, shape, **bounds)

    def _allocate(self) -> None:
        super()._allocate()
        self.plane, self.goals = self.plane.to(self.device), self.goals.to(self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        moved = tensordict.get(keys.ACTION) @ self.plane
        return super()._step(TensorDict({keys.ACTION: moved}, self.batch_size))

    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Success at a goal, which is the mode; no failure. See ``PlanarEnv.judge``."""
        distance, nearest = torch.cdist(position, self.goals).min(-1)
        success = distance < self.radius
        return success, torch.zeros_like(success), torch.where(success, nearest, -1)


def _lead(env: Dial, modes: Tensor, generator: torch.Generator) -> Expert:
    """Return what goes straight to somewhere near each goal ``[N]``."""
    aims = env.goals[modes]
    aims = aims + 0.3 * env.radius * torch.randn(aims.shape, generator=generator)

    def act(root: TensorDictBase) -> Tensor:
        offset = aims - root[keys.OBSERVATION]
        longest = offset.abs().amax(-1, keepdim=True).clamp_min(env.max_delta)
        return offset * (env.max_delta / longest) @ env.plane.T

    return act


def dial(modes: int = 6, action_dims: int = 2, horizon: int = 4) -> Task:
    """The task, of which chunks of ``horizon`` actions are planned, and four of them played."""
    make_env = partial(Dial, modes=modes, action_dims=action_dims)
    return Task(
        name="dial",
        make_env=make_env,
        layout=Layout(
            max_steps=MAX_STEPS, horizon=horizon, execute=EXECUTE, time_limit="terminates"
        ),
        num_modes=modes,
        demonstrate=partial(demonstrate, make_env, _lead, modes, action_noise=0.15),
        num_envs=256,
        feature_noise=0.1,
    )
