"""Gymnasium's spaces as TorchRL's specs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, TensorSpec, Unbounded

from modereg.errors import ConfigurationError
from modereg.keys import OBSERVATION

__all__ = [
    "HalfBounded",
    "action_spec",
    "check_actions",
    "mode_spec",
    "observation_leaves",
    "torch_dtype",
]


class _KeepsClass(type(Bounded)):  # type: ignore[misc]
    """TorchRL makes a BoundedContinuous of every Bounded, whatever its class."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        made = super().__call__(*args, **options)
        made.__class__ = cls
        return made


class HalfBounded(Bounded, metaclass=_KeepsClass):
    """Bounds of which some are infinite, with random values that are finite.

    TorchRL's own are NaN there. As ``gymnasium.spaces.Box.sample`` does it: uniform between two
    bounds, exponential beyond one, normal without any.
    """

    def rand(self, shape: Any = None) -> Tensor:
        """Return random values ``[*shape, *self.shape]``."""
        size = torch.Size((*(() if shape is None else shape), *self.shape))
        low, high = self.low, self.high
        below, above = low.isfinite(), high.isfinite()
        options = {"dtype": self.dtype, "device": self.device}
        uniform = torch.rand(size, **options).clamp_min(torch.finfo(self.dtype).tiny)
        beyond = -uniform.log()
        one = torch.where(below, low + beyond, high - beyond)
        none = torch.randn(size, **options)
        both = torch.where(below & above, low + uniform * (high - low), none)
        return torch.where(below ^ above, one, both)


def observation_leaves(
    space: gymnasium.Space, path: tuple[str, ...] = ()
) -> Iterator[tuple[NestedKey, spaces.Box]]:
    """Yields key and space of every Box in an observation space."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from observation_leaves(part, (*path, name))
    elif isinstance(space, spaces.Box):
        yield (path if len(path) > 1 else path[0]) if path else OBSERVATION, space
    else:
        raise ConfigurationError(
            f"Observations must be a Box or a Dict of them, got {space} "
            f"at {'.'.join(path) or 'root'}; "
            "wrap the environment in gymnasium.wrappers.FlattenObservation."
        )


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return a type that torch can work with, and float32 for float64.

    Unsigned integers of more than 8 bits become signed ones of more bits (uint64 of as many), as
    torch has hardly an operation for them.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "u" and dtype.itemsize > 1:
        return torch.int32 if dtype.itemsize == 2 else torch.int64
    converted = torch.from_numpy(np.zeros(0, dtype)).dtype
    return torch.float32 if converted == torch.float64 else converted


def mode_spec(shape: tuple[int, ...], num_modes: int | None, device: Any) -> TensorSpec:
    """Return the spec of a mode's index, -1 while undecided."""
    if num_modes is None:
        return Unbounded(shape, device=device, dtype=torch.int64)
    return Bounded(-1, num_modes - 1, shape, device=device, dtype=torch.int64)


def check_actions(env: gymnasium.Env) -> spaces.Box:
    """Return the space of an environment's actions.

    Raises:
        ConfigurationError: if it is no vector of floats.
    """
    space = env.action_space
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and len(space.shape) == 1:
        return space
    raise ConfigurationError(
        f"modereg steers policies with continuous actions, a Box of floats of shape [A], but "
        f"{env} has {space}; use an environment with continuous actions."
    )


def action_spec(space: spaces.Box, batch: torch.Size, device: Any) -> TensorSpec:
    """Return the spec of a Box of actions, bounded in the dimensions in which it is.

    Bounds that the type of the spec cannot hold are rounded into the box.
    """
    shape, dtype = (*batch, *space.shape), torch_dtype(space.dtype)
    low, high = (torch.as_tensor(bound, device=device) for bound in (space.low, space.high))
    low, high = _rounded_inwards(low, high, dtype)
    low, high = low.expand(shape), high.expand(shape)
    bounded = low.isfinite(), high.isfinite()
    if not bool((bounded[0] | bounded[1]).any()):
        return Unbounded(shape, device=device, dtype=dtype)
    kind = Bounded if bool((bounded[0] & bounded[1]).all()) else HalfBounded
    return kind(low, high, shape, device=device, dtype=dtype)


def _rounded_inwards(low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if low.dtype == dtype:
        return low, high
    lower, upper = low.to(dtype), high.to(dtype)
    outside = lower.to(low.dtype) < low, upper.to(high.dtype) > high
    inner = (
        torch.where(outside[0], torch.nextafter(lower, torch.full_like(lower, torch.inf)), lower),
        torch.where(outside[1], torch.nextafter(upper, torch.full_like(upper, -torch.inf)), upper),
    )
    empty = inner[0] > inner[1]  # no value of the type lies between the bounds
    return torch.where(empty, lower, inner[0]), torch.where(empty, upper, inner[1])
