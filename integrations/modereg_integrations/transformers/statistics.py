"""Means and deviations of a data set: between physical units and those of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["Statistics"]

_NAMES = ("state_mean", "state_std", "actions_mean", "actions_std")
_TINY = 1e-8


class Statistics(nn.Module):
    """Standardises the state and restores the actions, as transformers' ``PI0Processor`` does.

    Args:
        state_mean: ``[S]``, in physical units.
        state_std: ``[S]``.
        actions_mean: ``[A]``, in physical units.
        actions_std: ``[A]``.

    Raises:
        ShapeError: if mean and deviation of one quantity differ in length.
        ConfigurationError: if a number is not finite or a deviation is negative.
    """

    state_mean: Tensor
    state_std: Tensor
    actions_mean: Tensor
    actions_std: Tensor

    def __init__(
        self,
        *,
        state_mean: Sequence[float],
        state_std: Sequence[float],
        actions_mean: Sequence[float],
        actions_std: Sequence[float],
    ) -> None:
        super().__init__()
        values = (state_mean, state_std, actions_mean, actions_std)
        for name, value in zip(_NAMES, values, strict=True):
            self.register_buffer(name, torch.tensor(list(value), dtype=torch.float32))
        _check(self.state_mean, self.state_std, "state")
        _check(self.actions_mean, self.actions_std, "actions")

    def normalize_state(self, state: Tensor) -> Tensor:
        """Map states ``[..., S]`` to the units of the model: ``(s - mean) / (std + 1e-8)``.

        Raises:
            ShapeError: if the state has another length than its mean.
        """
        if state.shape[-1] != len(self.state_mean):
            raise ShapeError(
                f"expected states of {len(self.state_mean)} numbers, as their statistics have, "
                f"got {tuple(state.shape)}"
            )
        mean, std = self.state_mean.to(state), self.state_std.to(state)
        return (state - mean) / (std + _TINY)

    def denormalize_actions(self, chunk: Tensor) -> Tensor:
        """Map actions ``[..., A]`` of the model to physical units: ``a (std + 1e-8) + mean``."""
        return chunk * (self.actions_std.to(chunk) + _TINY) + self.actions_mean.to(chunk)

    def normalize_actions(self, chunk: Tensor) -> Tensor:
        """Map actions ``[..., A]`` to the units of the model: ``(a - mean) / (std + 1e-8)``."""
        return (chunk - self.actions_mean.to(chunk)) / (self.actions_std.to(chunk) + _TINY)

    def options(self) -> dict[str, list[float]]:
        """Return the arguments that make these statistics, JSON-able."""
        return {name: getattr(self, name).tolist() for name in _NAMES}


def _check(mean: Tensor, std: Tensor, name: str) -> None:
    if mean.shape != std.shape:
        raise ShapeError(
            f"expected {name}_mean and {name}_std of one length, got {len(mean)} and {len(std)}"
        )
    if not bool(torch.isfinite(torch.cat([mean, std])).all()) or bool((std < 0).any()):
        raise ConfigurationError(
            f"expected finite {name}_mean and {name}_std and no negative deviation, got "
            f"{mean.tolist()} and {std.tolist()}"
        )
