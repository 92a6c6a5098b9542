"""Reading tensordicts: entries that must be there, and modules evaluated without copies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import ValueOperator

from modereg.errors import KeyMismatchError
from modereg.networks import InputNoise
from modereg.suggestions import with_suggestion

__all__ = ["evaluate", "in_next", "module_device", "require", "valid_rows"]


def require(tensordict: TensorDictBase, key: NestedKey, reader: str) -> Tensor:
    """Return an entry.

    Args:
        tensordict: where to look.
        key: the entry.
        reader: who needs it, for the error.

    Raises:
        KeyMismatchError: if it is missing; the sentence names the reader and what is there.
    """
    value = tensordict.get(key, None)
    if value is None:
        there = list(tensordict.keys(True, True))
        sentence = (
            f"{reader} reads {key!r}, which the tensordict lacks (it has "
            f"{sorted(map(str, there))}); rename the entry or pass its key"
        )
        raise KeyMismatchError(with_suggestion(sentence, key, there))
    return value


def evaluate(
    module: TensorDictModuleBase,
    tensordict: TensorDictBase,
    out_key: NestedKey,
    *,
    noisy: bool = False,
    reader: str = "the module",
) -> Tensor:
    """Evaluate one output of a module on a tensordict, which is left as it is.

    A plain TensorDictModule with one output is called with the tensors themselves, which is a few
    times faster on small networks than through tensordicts.

    Args:
        module: reads its ``in_keys`` and writes ``out_key``.
        tensordict: ``[*B]``.
        out_key: entry to return.
        noisy: whether an :class:`~modereg.networks.InputNoise` in the module adds its noise.
        reader: who reads, for the error.

    Raises:
        KeyMismatchError: if an input is missing.
    """
    values = [require(tensordict, key, reader) for key in module.in_keys]
    if not _is_plain(module):
        return module(tensordict.select(*module.in_keys)).get(out_key)
    options: dict[str, Any] = {"noisy": True} if noisy and _has_noise(module) else {}
    return module.module(*values, **options)


def module_device(module: nn.Module) -> torch.device | None:
    """Return where a module's first parameter or buffer lives; None where it has neither."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return None


def in_next(key: NestedKey) -> NestedKey:
    """Return the key of an entry in ``next``."""
    return ("next", *key) if isinstance(key, tuple) else ("next", key)


def valid_rows(
    tensordict: TensorDictBase, mask_keys: Iterable[NestedKey] = (("collector", "mask"),)
) -> Tensor | None:
    """Return which rows count, ``[*B]`` bool: those that no mask calls padding; None for all.

    Args:
        tensordict: ``[*B]``.
        mask_keys: entries ``[*B]`` or ``[*B, 1]``, false for padding; those missing do not count.
    """
    masks = [tensordict.get(key, None) for key in mask_keys]
    rows = [mask.view(tensordict.batch_size) for mask in masks if mask is not None]
    return torch.stack(rows).all(0) if rows else None


def _has_noise(module: TensorDictModuleBase) -> bool:
    """Return whether a module is an :class:`~modereg.networks.InputNoise` on keys."""
    return isinstance(getattr(module, "module", None), InputNoise)


def _is_plain(module: TensorDictModuleBase) -> bool:
    """Return whether a module is a function of its entries in order, with one output."""
    simple = type(module) in (TensorDictModule, ValueOperator) and len(module.out_keys) == 1
    return simple and module.method is None and not module.method_kwargs and not module._kwargs
