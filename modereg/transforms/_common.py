"""What the transforms share: small operations on keys, masks and the chain around a transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import reduce
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from torch import Tensor
from torchrl.envs import EnvBase, Transform
from torchrl.envs.transforms import Compose, TransformedEnv

from modereg._torchrl import unattached_state
from modereg.reading import require, valid_rows

__all__ = [
    "any_flag",
    "copy_sharing",
    "expand_mask",
    "merge_rows",
    "require",
    "sibling",
    "transforms_within",
    "valid_rows",
]


def copy_sharing(transform: Transform, memo: dict[int, Any], shared: object) -> Any:
    """Return a deep, unattached copy of a transform that shares one object with the original.

    Collectors copy their ``postproc``, while what it reads learns on. Where what is shared is
    copied too, in one call and before the transform, the copies belong together; the memo is left
    as it was, so that what is copied after the transform is a copy and not the original.
    """
    known = id(shared) in memo
    memo.setdefault(id(shared), shared)
    copied = object.__new__(type(transform))
    memo[id(transform)] = copied
    copied.__dict__.update(deepcopy(unattached_state(transform), memo))
    if not known:
        del memo[id(shared)]
    return copied


def sibling(key: NestedKey, name: str) -> NestedKey:
    """Return the key of an entry beside ``key``."""
    return name if isinstance(key, str) else (*key[:-1], name)


def expand_mask(mask: Tensor, value: Tensor) -> Tensor:
    """View a mask ``[*B]`` so that it broadcasts against a value ``[*B, ...]``."""
    return mask.view(*mask.shape, *([1] * (value.ndim - mask.ndim)))


def any_flag(tensordict: TensorDictBase, flags: Iterable[NestedKey]) -> Tensor:
    """Return which rows ``[*B]`` have any of these boolean entries ``[*B, ...]`` set."""
    rows = [_row_flag(tensordict.get(key), tensordict.batch_dims) for key in flags]
    return reduce(torch.logical_or, rows)


def _row_flag(value: Tensor, ndim: int) -> Tensor:
    shape = value.shape[:ndim]
    single = value.shape[ndim:].numel() == 1
    return value.view(shape) if single else value.flatten(ndim).any(-1)


def merge_rows(mask: Tensor, kept: TensorDictBase, other: TensorDictBase) -> TensorDictBase:
    """Return ``other`` with the rows in a mask ``[*B]`` taken from ``kept``; tensors only."""
    for key, value in list(other.items()):
        old = kept.get(key, None)
        if old is None:
            continue
        if is_tensor_collection(value):
            if isinstance(value, TensorDictBase):
                merge_rows(mask, old, value)
        else:
            other.set(key, torch.where(expand_mask(mask, value), old, value))
    return other


def transforms_within(env: EnvBase | None, inner: Iterable[Transform] = ()) -> list[Transform]:
    """Return the transforms of the transformed environments below a chain, and it, inside out."""
    chain = list(_flattened(inner))
    while isinstance(env, TransformedEnv):
        chain = [*_flattened([env.transform]), *chain]
        env = env.base_env
    return chain


def _flattened(transforms: Iterable[Transform]) -> Iterator[Transform]:
    for member in transforms:
        if isinstance(member, Compose):
            yield from _flattened(member.transforms)
        else:
            yield member
