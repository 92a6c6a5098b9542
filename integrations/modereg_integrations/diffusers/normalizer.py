"""Normalisation of observations and actions, kept in buffers so that it travels with the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError

__all__ = ["Normalizer"]

Mode = Literal["minmax", "meanstd", "identity"]


class Normalizer(nn.Module):
    """Elementwise affine maps between physical and normalised units.

    Normalised is ``(x - shift) / scale``. Before :meth:`fit` every shift is 0 and every scale 1.
    A dimension that is constant in the data keeps scale 1.

    Args:
        observation_shapes: shape of each observation at one step, without history; statistics are
            taken for each element, over episodes and history.
        action_dim: length A of an action; statistics are taken over episodes and the horizon.
        mode: ``"minmax"`` maps the data to [-1, 1]; ``"meanstd"`` to mean 0 and standard deviation
            1; ``"identity"`` leaves everything as it is.

    Raises:
        ConfigurationError: if the mode is none of these.
    """

    action_shift: Tensor
    action_scale: Tensor

    def __init__(
        self,
        observation_shapes: Sequence[Sequence[int]],
        action_dim: int,
        mode: Mode = "minmax",
    ) -> None:
        super().__init__()
        if mode not in ("minmax", "meanstd", "identity"):
            raise ConfigurationError(
                f"expected mode 'minmax', 'meanstd' or 'identity', got {mode!r}"
            )
        self.mode: Mode = mode
        self.observation_shapes = [tuple(shape) for shape in observation_shapes]
        self.action_dim = action_dim
        for index, shape in enumerate(self.observation_shapes):
            self.register_buffer(f"observation_shift_{index}", torch.zeros(shape))
            self.register_buffer(f"observation_scale_{index}", torch.ones(shape))
        self.register_buffer("action_shift", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))

    @torch.no_grad()
    def fit(self, observations: Sequence[Tensor], chunks: Tensor) -> None:
        """Take the statistics of data.

        Args:
            observations: ``[N, ...]`` each, in the order of the policy's observation keys.
            chunks: ``[N, H, A]``.

        Raises:
            ShapeError: if an observation does not end with its shape, or their number is another.
            NonFiniteError: if the data is not finite.
        """
        if len(observations) != len(self.observation_shapes):
            raise ShapeError(
                f"expected {len(self.observation_shapes)} observations, got {len(observations)}"
            )
        for index, value in enumerate(observations):
            self._fit_one(f"observation_{{}}_{index}", value)
        self._fit_one("action_{}", chunks)

    def _fit_one(self, name: str, data: Tensor) -> None:
        shift, scale = self.get_buffer(name.format("shift")), self.get_buffer(name.format("scale"))
        dims = data.ndim - shift.ndim
        if dims < 1 or data.shape[dims:] != shift.shape:
            raise ShapeError(
                f"expected data for {name.format('shift')} of shape [N, ..., "
                f"{', '.join(map(str, shift.shape))}], got {tuple(data.shape)}"
            )
        if not bool(torch.isfinite(data).all()):
            raise NonFiniteError(f"the data for {name.format('shift')} is not finite")
        new_shift, new_scale = _statistics(data.flatten(0, dims - 1).double(), self.mode)
        shift.copy_(new_shift)
        scale.copy_(new_scale)

    def normalize_observation(self, index: int, value: Tensor) -> Tensor:
        """Return ``[*B, *shape]`` in normalised units; history steps may precede the shape."""
        if self.mode == "identity":
            return value
        shift = self.get_buffer(f"observation_shift_{index}")
        return (value - shift) / self.get_buffer(f"observation_scale_{index}")

    def normalize_action(self, action: Tensor) -> Tensor:
        """Return actions ``[..., A]`` in normalised units."""
        if self.mode == "identity":
            return action
        return (action - self.action_shift) / self.action_scale

    def denormalize_action(self, action: Tensor) -> Tensor:
        """Return actions ``[..., A]`` in physical units."""
        if self.mode == "identity":
            return action
        return torch.addcmul(self.action_shift, action, self.action_scale)


def _statistics(data: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """Shift and scale of data ``[N, *shape]``."""
    if mode == "identity":
        return torch.zeros_like(data[0]), torch.ones_like(data[0])
    if mode == "meanstd":
        shift, scale = data.mean(0), data.std(0, correction=0)
    else:
        low, high = data.amin(0), data.amax(0)
        shift, scale = (high + low) / 2, (high - low) / 2
    return shift, torch.where(scale > 1e-6, scale, torch.ones_like(scale))
