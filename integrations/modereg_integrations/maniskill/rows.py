"""Flat entries of a batch's rows: read from a simulation, put side by side, chosen by a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from modereg.keys import MODE, OBSERVATION, SUCCESS
from modereg_integrations.maniskill.spaces import flatten

__all__ = ["Leaves", "choose", "draw_seeds", "join", "read"]

Leaves = dict[NestedKey, Tensor]
"""Entries by their nested key, each ``[rows, ...]``."""


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
    """Copies of all parts' rows in one batch: a simulation writes its next step into its buffers.

    Args:
        parts: one or several with the same keys.
    """
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
