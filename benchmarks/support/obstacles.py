"""The Gaussian mixture with an obstacle: a disc that the point cannot enter."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks import GaussianMixture

__all__ = ["ObstructedMixture"]


class ObstructedMixture(GaussianMixture):
    """Each row has a disc of its own, at whose edge the point stops.

    Args:
        discs: x and y of their centres, ``[N, 2]``.
        radius: of each.
        **options: of :class:`~modereg.tasks.GaussianMixture`.
    """

    def __init__(self, discs: Tensor, radius: float, **options: Any) -> None:
        super().__init__(len(discs), **options)
        self._discs, self._disc_radius = discs, radius

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        before = self._current
        aim = before + tensordict.get("action").clamp(-self.max_delta, self.max_delta)
        inside = (aim - self._discs).norm(dim=-1, keepdim=True) < self._disc_radius
        held = tensordict.clone(recurse=False)
        held.set("action", torch.where(inside, 0.0, tensordict.get("action")))
        return super()._step(held)
