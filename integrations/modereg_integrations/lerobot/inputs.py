"""Observations of a tensordict as the flat batch that LeRobot's preprocessor takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["flatten_feature"]


def flatten_feature(
    name: str, value: Any, shape: Sequence[int], *, image: bool, history: int, resizes: bool
) -> tuple[torch.Size, Tensor]:
    """Flatten the batch of one feature.

    Args:
        name: LeRobot's name of it, for errors.
        value: ``[*B, *shape]``, with a history ``[*B, history, *shape]``.
        shape: of one step: ``(S,)``, or ``(3, H, W)``.
        image: ``uint8`` images in [0, 255] are scaled to [0, 1], floats are in [0, 1] already.
        history: observation steps; 0 and 1 mean that there is no dimension for them.
        resizes: whether images may be of another height and width.

    Returns:
        The batch B, and ``[N, *shape]``, or ``[N, history, *shape]`` for a history of 1 or more.

    Raises:
        ShapeError: if it has another shape.
        ConfigurationError: if it is no tensor, or an image of another integer type.
    """
    if not isinstance(value, Tensor):
        raise ConfigurationError(f"expected a tensor for {name!r}, got {type(value).__name__}")
    steps = (history,) if history > 1 else ()
    inner = len(steps) + len(shape)
    batch, rest = value.shape[: value.ndim - inner], value.shape[value.ndim - inner :]
    known = 1 if image and resizes else len(shape)
    expected = (*steps, *shape)
    if value.ndim < inner or rest[: len(steps) + known] != expected[: len(steps) + known]:
        raise ShapeError(
            f"expected {name!r} of shape [*B, {_join(expected)}], got [{_join(value.shape)}]"
        )
    flat = (_scale(name, value) if image else value).reshape(batch.numel(), *rest)
    return batch, flat.unsqueeze(1) if history == 1 else flat


def _join(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _scale(name: str, image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image.float() / 255.0
    if image.is_floating_point():
        return image
    raise ConfigurationError(
        f"expected {name!r} as uint8 in [0, 255] or as floats in [0, 1], got {image.dtype}"
    )
