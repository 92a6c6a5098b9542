"""Counts and partitions: entropies, plug-in information, and how far two labellings agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "adjusted_rand_index",
    "contingency",
    "effective_number",
    "entropy",
    "mutual_information",
    "normalized_entropy",
    "normalized_mutual_information",
]


def entropy(weights: Tensor) -> Tensor:
    r""":math:`-\sum p \log p` of weights that are divided by their sum.

    Args:
        weights: non-negative, ``[*B, M]``: probabilities or counts; all zero counts as none.

    Returns:
        ``[*B]`` nats, float64, at most log M; 0 where all weights are zero.
    """
    weights = weights.to(torch.float64)
    probs = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return -torch.special.xlogy(probs, probs).sum(-1)


def normalized_entropy(counts: Tensor, num_modes: int) -> Tensor:
    r""":math:`H / \log M`, the behaviour entropy of D3IL (Jia et al., arXiv 2402.14606).

    Args:
        counts: episodes of each mode, ``[*B, M']``, of which M' may be less than ``num_modes``.
        num_modes: M; with one mode there is nothing to choose and the entropy is 0.

    Returns:
        ``[*B]`` in [0, 1], float64.
    """
    return entropy(counts) / math.log(num_modes) if num_modes > 1 else 0.0 * entropy(counts)


def effective_number(counts: Tensor) -> Tensor:
    r""":math:`e^{H}`, how many equally frequent kinds have the same entropy (Hill, 1973).

    Args:
        counts: ``[*B, M]``.

    Returns:
        ``[*B]`` in [1, M], float64.
    """
    return entropy(counts).exp()


def contingency(first: Tensor, second: Tensor, num_first: int, num_second: int) -> Tensor:
    """Count pairs of labels.

    Args:
        first: labels in [0, num_first), ``[N]`` int64.
        second: labels in [0, num_second), ``[N]`` int64.
        num_first: rows of the table.
        num_second: columns of the table.

    Returns:
        ``[num_first, num_second]`` int64; its sum is N.
    """
    pairs = first * num_second + second
    return torch.bincount(pairs, minlength=num_first * num_second).view(num_first, num_second)


def mutual_information(table: Tensor) -> Tensor:
    r""":math:`I(X; Y) = H(X) + H(Y) - H(X, Y)`, plug-in, of a contingency table.

    The plug-in estimate is biased upwards by about (rows - 1)(columns - 1) / 2N nats.

    Args:
        table: counts or joint probabilities, ``[*B, R, C]``.

    Returns:
        ``[*B]`` nats, float64, not negative.
    """
    joint = entropy(table.flatten(-2))
    return (entropy(table.sum(-1)) + entropy(table.sum(-2)) - joint).clamp_min(0.0)


def normalized_mutual_information(table: Tensor) -> Tensor:
    r""":math:`2 I(X; Y) / (H(X) + H(Y))`: 1 where the partitions agree up to names.

    Args:
        table: counts or joint probabilities, ``[*B, R, C]``.

    Returns:
        ``[*B]`` in [0, 1], float64; two partitions of a single part agree and give 1.
    """
    total = entropy(table.sum(-1)) + entropy(table.sum(-2))
    ratio = 2.0 * mutual_information(table) / total.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(total > 0, ratio, torch.ones_like(ratio)).clamp_max(1.0)


def adjusted_rand_index(table: Tensor) -> Tensor:
    r"""Agreement of two partitions, corrected for chance (Hubert and Arabie, 1985).

    With pairs :math:`b(n) = n (n - 1) / 2`, row sums a, column sums c and N points:
    :math:`(\sum b(n_{ij}) - E) / ((\sum b(a_i) + \sum b(c_j)) / 2 - E)`,
    :math:`E = \sum b(a_i) \sum b(c_j) / b(N)`.

    Args:
        table: counts, ``[R, C]``, of at least two points.

    Returns:
        A scalar, float64: 1 where the partitions agree up to names, about 0 by chance.
    """
    counts = table.to(torch.float64)
    pairs = (counts * (counts - 1) / 2).sum()
    rows, columns = counts.sum(-1), counts.sum(-2)
    row_pairs = (rows * (rows - 1) / 2).sum()
    column_pairs = (columns * (columns - 1) / 2).sum()
    total = counts.sum() * (counts.sum() - 1) / 2
    expected = row_pairs * column_pairs / total
    spread = 0.5 * (row_pairs + column_pairs) - expected
    return (pairs - expected) / spread if float(spread) else torch.ones_like(spread)
