"""Linear combinations with few kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, add

__all__ = ["Terms", "combine", "nonzero_terms"]

Terms = tuple[tuple[int, float], ...]
"""A linear combination: pairs of an index and its coefficient."""


def nonzero_terms(row: Sequence[float]) -> Terms:
    """Return the terms of a row of coefficients without those that are zero to rounding."""
    smallest = 1e-9 * max(map(abs, row))
    return tuple((index, value) for index, value in enumerate(row) if abs(value) > smallest)


def combine(terms: Terms, values: Sequence[Tensor]) -> Tensor:
    """Sum ``coefficient * values[index]`` over one term or more, with one kernel a term."""
    first, factor = terms[0]
    if len(terms) == 1:
        return values[first] if factor == 1.0 else values[first] * factor
    index, coefficient = terms[1]
    if factor == 1.0:
        total = add(values[first], values[index], alpha=coefficient)
    else:
        total = (values[first] * factor).add_(values[index], alpha=coefficient)
    for index, coefficient in terms[2:]:
        total.add_(values[index], alpha=coefficient)
    return total
