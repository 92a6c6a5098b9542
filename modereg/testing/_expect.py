"""How the checks complain, and compare what was collected so that a sentence can name the entry."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

__all__ = ["different_entry", "expect", "not_finite", "same_state"]


def expect(holds: bool, sentence: str) -> None:
    """Raise an ``AssertionError`` with this sentence unless the condition holds.

    Unlike the statement it also works under ``python -O``.
    """
    if not holds:
        raise AssertionError(sentence)


def different_entry(
    first: TensorDictBase, second: TensorDictBase, rtol: float = 1e-4, atol: float = 1e-5
) -> NestedKey | None:
    """Return an entry in which two tensordicts differ (NaN equals NaN), or None."""
    names, others = set(first.keys(True, True)), set(second.keys(True, True))
    if names != others:
        return sorted(names ^ others, key=str)[0]
    for name in sorted(names, key=str):
        one, other = first.get(name), second.get(name)
        if isinstance(one, Tensor) and not _close(one, other, rtol, atol):
            return name
    return None


def not_finite(tensordict: TensorDictBase) -> NestedKey | None:
    """Return an entry that holds a NaN or an infinity, or None."""
    for name, value in tensordict.items(True, True):
        tested = isinstance(value, Tensor) and value.is_floating_point()
        if tested and not bool(torch.isfinite(value).all()):
            return name
    return None


def same_state(first: Any, second: Any) -> bool:
    """Return whether two nested states are equal to the last bit, types included (NaN is NaN)."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and _close(first, second, 0.0, 0.0)
    if isinstance(first, float) and first != first:
        return isinstance(second, float) and second != second
    if isinstance(first, dict):
        same = isinstance(second, dict) and first.keys() == second.keys()
        return same and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        same = type(first) is type(second) and len(first) == len(second)
        return same and all(same_state(*pair) for pair in zip(first, second, strict=True))
    return bool(type(first) is type(second) and first == second)


def _close(one: Tensor, other: Any, rtol: float, atol: float) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True)
