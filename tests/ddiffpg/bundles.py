"""Paths with known ways: one bundle of several forms, and several."""

from __future__ import annotations

import torch
from torch import Tensor


def fan(angles: Tensor, seed: int, *, spread: float = 0.12) -> list[Tensor]:
    """Return paths ``[T, 2]`` of 7 to 9 points from the origin to about the unit circle."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.stack([angles.cos(), angles.sin()], -1)
    ends = ends + spread * torch.randn(ends.shape, generator=generator)
    time = torch.linspace(0.0, 1.0, 9)[:, None]
    shaken = 0.03 * torch.randn(len(angles), 9, 2, generator=generator).cumsum(1)
    paths = time * ends[:, None] + shaken - time * shaken[:, -1:]
    lengths = torch.randint(7, 10, (len(angles),), generator=generator)
    return [path[:length] for path, length in zip(paths, lengths.tolist())]


def four_ways(number: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Return paths to four sides, and which, ``[number]``."""
    sides = torch.arange(number) % 4
    return fan(sides * torch.pi / 2, seed), sides


def one_way(number: int, seed: int, width: float = 0.0) -> list[Tensor]:
    """Return paths to one side, or to all of an arc of that many radians."""
    generator = torch.Generator().manual_seed(seed)
    return fan(width * (torch.rand(number, generator=generator) - 0.5), seed)
