"""The Gaussian mixture with pictures of the point: among the observations, or on request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchrl.data import Bounded

from modereg import keys
from modereg.policies import GenerativePolicy, as_generative_policy, freeze
from modereg.recipes.setup import Setup
from modereg.tasks import Task
from modereg.tasks.gaussian_mixture import GaussianMixture, gaussian_mixture_task

HEIGHT, WIDTH = 20, 24
PIXELS = ("camera", "pixels")


def place(position: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of positions ``[N, 2]`` in a picture."""
    share = ((position.clamp(-0.99, 0.99) + 1) / 2).flip(-1)
    row, column = (share * torch.tensor([HEIGHT, WIDTH])).long().unbind(-1)
    return row, column


def paint(position: Tensor) -> Tensor:
    """Return pictures ``[N, 3, H, W]`` uint8: a white point on blue."""
    picture = torch.zeros(len(position), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    picture[:, 2] = 90
    row, column = place(position)
    picture[torch.arange(len(position)), :, row, column] = 255
    return picture


class Pictured(GaussianMixture):
    """Writes the picture beside the position."""

    def _make_specs(self) -> None:
        super()._make_specs()
        shape = (*self.batch_size, 3, HEIGHT, WIDTH)
        self.observation_spec[PIXELS] = Bounded(0, 255, shape, dtype=torch.uint8)

    def _observe(self) -> dict[Any, Tensor]:
        return {**super()._observe(), PIXELS: paint(self._current)}


class Rendering(GaussianMixture):
    """Renders when it is asked to, and counts how often."""

    renderings = 0

    def render_frames(self) -> Tensor:
        """Return a picture of every row, ``[N, H, W, 3]`` uint8."""
        type(self).renderings += 1
        return paint(self._current).movedim(1, -1)


def pictured_task(**changes: Any) -> Task:
    """Return the task with pictures among the observations."""
    return _changed(Pictured, filmstrip_key=PIXELS, **changes)


def rendering_task(**changes: Any) -> Task:
    """Return the task that renders."""
    return _changed(Rendering, renders=True, **changes)


def _changed(make_env: type[GaussianMixture], **changes: Any) -> Task:
    return replace(gaussian_mixture_task(), make_env=make_env, num_envs=32, **changes)


def outwards(noise: Tensor, observation: Tensor) -> Tensor:
    """Go on in the quadrant of the point, of the noise near the start: ``[*B, 4, 2]``."""
    here = observation.unsqueeze(-2)
    first = noise[..., :1, :]
    return 0.07 * torch.where(here.abs() > 0.06, here, first).sign().expand(noise.shape)


def pictured_setup(task: Task) -> Setup:
    """Return a task with a base policy that reaches every goal."""
    base = as_generative_policy(
        outwards, in_keys=[keys.OBSERVATION], noise_shape=(4, 2), chunk_shape=(4, 2)
    )
    return setup_of(task, base, "outwards", task.num_envs)


def setup_of(task: Task, base: GenerativePolicy, reference: str, num_envs: int) -> Setup:
    """Return a task with a base policy, on the CPU."""
    cpu, layout = torch.device("cpu"), task.layout.for_policy(base)
    return Setup(task, layout, freeze(base), reference, base.fingerprint(), num_envs, cpu, cpu)
