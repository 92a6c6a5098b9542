"""Gymnasium spaces as TorchRL specs, and the flat entries of a batch's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Binary, Bounded, TensorSpec, Unbounded
from torchrl.data.utils import numpy_to_torch_dtype_dict

from modereg.errors import ConfigurationError
from modereg.keys import MODE, OBSERVATION, SUCCESS
from modereg.suggestions import with_suggestion
from modereg.tasks._gym_spaces import observation_leaves

__all__ = [
    "Leaves",
    "action_boxes",
    "choose",
    "draw_seeds",
    "flatten",
    "info_specs",
    "join",
    "observation_specs",
    "read",
]

Leaves = dict[NestedKey, Tensor]
"""Entries by their nested key, each ``[rows, ...]``."""


def flatten(value: Any, key: NestedKey) -> Iterator[tuple[NestedKey, Tensor]]:
    """Yield the leaves of a nested mapping, each with its nested key that begins with ``key``."""
    if isinstance(value, Mapping):
        prefix = key if isinstance(key, tuple) else (key,)
        for name, item in value.items():
            yield from flatten(item, (*prefix, name))
    else:
        yield key, value


def observation_specs(space: Any, key: NestedKey) -> dict[NestedKey, TensorSpec]:
    """Specs of one row for a box, or for each box of a nested dictionary of spaces, by its key.

    Bytes become bounded by [0, 255], other numbers are unbounded. The key of the whole is the first
    part of each nested key.
    """
    path = key if isinstance(key, tuple) else (key,)
    return {name: _spec(box) for name, box in observation_leaves(space, path)}


def _spec(box: Any) -> TensorSpec:
    dtype = numpy_to_torch_dtype_dict[box.dtype]
    if dtype == torch.uint8:
        return Bounded(0, 255, shape=box.shape, dtype=dtype)
    return Unbounded(box.shape, dtype=dtype)


def action_boxes(space: Any, env_id: str) -> dict[str, Any]:
    """The boxes that an action consists of: one under ``""``, or one a robot under its name.

    Raises:
        ConfigurationError: if an action is something else.
    """
    boxes: dict[str, Any] = dict(getattr(space, "spaces", {"": space}))
    if not all(hasattr(box, "low") and len(box.shape) == 1 for box in boxes.values()):
        raise ConfigurationError(
            f"ManiSkillEnv needs actions that are boxes, one a robot, got {space} from "
            f"{env_id!r}; choose another control_mode."
        )
    return boxes


def info_specs(
    info: Mapping[str, Any], extra: Sequence[str], env_id: str
) -> dict[NestedKey, TensorSpec]:
    """Specs of one row of ``success``, ``mode`` and ``extra``, as far as an info has them.

    Raises:
        ConfigurationError: if the info lacks one of ``extra``.
    """
    missing = [key for key in extra if key not in info]
    if missing:
        sentence = f"The info of {env_id!r} has no {missing}, it has {sorted(info)}"
        raise ConfigurationError(with_suggestion(f"{sentence}; change info_keys.", missing, info))
    specs: dict[NestedKey, TensorSpec] = {
        key: Unbounded(tuple(info[key].shape[1:]), dtype=info[key].dtype) for key in extra
    }
    if SUCCESS in info:
        specs[SUCCESS] = Binary(shape=(1,), dtype=torch.bool)
    if MODE in info:
        specs[MODE] = Unbounded((1,), dtype=torch.int64)
    return specs


def read(
    obs: Any, info: Mapping[str, Any], dtypes: Mapping[NestedKey, torch.dtype], device: Any
) -> Leaves:
    """What an observation and an info say under the keys of ``dtypes``, not necessarily copied.

    Args:
        obs: a tensor ``[rows, O]``, or a nested mapping of tensors.
        info: of the same step; looked into for what the observation lacks.
        dtypes: nested key -> data type.
        device: of the result.

    Returns:
        Entries ``[rows, ...]``, ``success`` and ``mode`` ``[rows, 1]``.
    """
    found = dict(flatten(obs, OBSERVATION))
    leaves: Leaves = {}
    for key, dtype in dtypes.items():
        leaf = torch.as_tensor(found[key] if key in found else info[key]).to(device, dtype)
        leaves[key] = leaf.reshape(-1, 1) if key in (SUCCESS, MODE) else leaf
    return leaves


def join(parts: Sequence[Leaves]) -> Leaves:
    """Copies of all parts' rows in one batch: simulations write their next step into buffers."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def choose(mask: Tensor, first: Leaves, second: Leaves) -> Leaves:
    """Rows of ``first`` where ``mask`` ``[rows, 1]`` holds, else of ``second``."""
    rows = mask.view(-1)
    return {
        key: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, second[key])
        for key, value in first.items()
    }


def draw_seeds(generator: torch.Generator, num: int) -> list[int]:
    """Seeds of ``num`` rows, each in [0, 2^31 - 1)."""
    return [int(seed) for seed in torch.randint(2**31 - 1, (num,), generator=generator)]
