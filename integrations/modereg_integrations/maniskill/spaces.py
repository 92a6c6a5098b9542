"""Gymnasium spaces and nested observations as TorchRL specs and flat entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, TensorSpec, Unbounded
from torchrl.data.utils import numpy_to_torch_dtype_dict

__all__ = ["flatten", "observation_specs"]


def flatten(value: Any, key: NestedKey) -> Iterator[tuple[NestedKey, Tensor]]:
    """Yield the leaves of a nested mapping, each with its nested key that begins with ``key``."""
    if isinstance(value, Mapping):
        prefix = key if isinstance(key, tuple) else (key,)
        for name, item in value.items():
            yield from flatten(item, (*prefix, name))
    else:
        yield key, value


def observation_specs(space: Any, key: NestedKey) -> dict[NestedKey, TensorSpec]:
    """Specs of one row for a box, or for each box of a nested dictionary of spaces.

    Args:
        space: a ``gymnasium.spaces.Box`` or ``Dict``; bytes become bounded by [0, 255], other
            numbers are unbounded.
        key: key of the whole, the first part of each nested key.

    Returns:
        Nested key -> spec of the box's shape.
    """
    boxes = dict(flatten(getattr(space, "spaces", space), key))
    nested = [name for name, box in boxes.items() if hasattr(box, "spaces")]
    for name in nested:
        boxes |= observation_specs(boxes.pop(name), name)
    return {name: _spec(box) for name, box in boxes.items()}


def _spec(box: Any) -> TensorSpec:
    if isinstance(box, TensorSpec):
        return box
    dtype = numpy_to_torch_dtype_dict[box.dtype]
    if dtype == torch.uint8:
        return Bounded(0, 255, shape=box.shape, dtype=dtype)
    return Unbounded(box.shape, dtype=dtype)
