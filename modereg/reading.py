"""Reading tensordicts: entries that must be there and finite, and modules without copies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor
from torchrl.modules import ValueOperator

from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.networks import InputNoise
from modereg.suggestions import with_suggestion

__all__ = ["evaluate", "in_next", "require", "require_finite", "require_rows", "valid_rows"]


def require(tensordict: TensorDictBase, key: NestedKey, reader: str) -> Tensor:
    """Return an entry.

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


def require_rows(tensordict: TensorDictBase, reader: str) -> None:
    """Check that a batch is not empty, since a mean over nothing is NaN.

    Raises:
        ConfigurationError: if it is.
    """
    if not tensordict.batch_size.numel():  # a tensordict says of itself that it has 1
        raise ConfigurationError(
            f"{reader} expects at least one row, got a batch of shape "
            f"{tuple(tensordict.batch_size)}; leave the step out, or collect more"
        )


def require_finite(
    tensordict: TensorDictBase,
    keys: Iterable[NestedKey],
    where: str,
    *,
    valid: Tensor | None = None,
) -> None:
    """Check that entries hold neither NaN nor infinities, before they reach an optimiser.

    One sum over all of them tells that they do not, so a batch costs one reading, and on an
    accelerator one synchronisation; only where it is not finite is each entry looked at.

    Args:
        tensordict: ``[*B]``, with entries ``[*B, ...]``; those of integers and booleans pass.
        keys: the entries.
        where: what they are for, which the error names, such as ``"the batch of iteration 3"``.
        valid: rows ``[*B]`` that count, bool; the others may hold anything. None counts all.

    Raises:
        KeyMismatchError: if an entry is missing.
        NonFiniteError: if one is not finite; the sentence names it and the first such row.
    """
    values = {key: require(tensordict, key, where) for key in keys}
    floats = {key: value.detach() for key, value in values.items() if value.is_floating_point()}
    sums = [value.sum(dtype=torch.float32) for value in floats.values()]
    if not sums or bool(torch.isfinite(torch.stack(sums).sum())):
        return
    for key, value in floats.items():
        wrong = ~torch.isfinite(value)
        rows = wrong.flatten(tensordict.ndim).any(-1) if wrong.ndim > tensordict.ndim else wrong
        rows = rows if valid is None else rows & valid
        if bool(rows.any()):
            first = rows.nonzero()[0].tolist()
            raise NonFiniteError(
                f"expected finite values under {key!r} in {where}, got NaN or infinity in "
                f"{int(rows.sum())} of {rows.numel()} rows, first in row {first}; a likely cause "
                "is an environment that resets itself and fills the observation at the end of an "
                "episode with NaN, or one that divides by zero"
            )


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
