"""Counts and partitions: entropies, plug-in information, and how far two labellings agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "adjusted_information",
    "adjusted_mutual_information",
    "adjusted_rand_index",
    "contingency",
    "entropy",
    "expected_information",
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
    return 0.0 - torch.special.xlogy(probs, probs).sum(-1)  # of one mode 0, not -0


def normalized_entropy(counts: Tensor, num_modes: int) -> Tensor:
    r""":math:`H / \log M`, the behaviour entropy of D3IL (Jia et al., arXiv 2402.14606).

    Args:
        counts: episodes of each mode, ``[*B, M']``, of which M' may be less than ``num_modes``.
        num_modes: M; with one mode there is nothing to choose and the entropy is 0.

    Returns:
        ``[*B]`` in [0, 1], float64.
    """
    return entropy(counts) / math.log(num_modes) if num_modes > 1 else 0.0 * entropy(counts)


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

    The plug-in estimate is biased upwards by about (rows - 1)(columns - 1) / 2N nats, which
    :func:`adjusted_information` takes away.

    Args:
        table: counts or joint probabilities, ``[*B, R, C]``.

    Returns:
        ``[*B]`` nats, float64, not negative.
    """
    joint = entropy(table.flatten(-2))
    return (entropy(table.sum(-1)) + entropy(table.sum(-2)) - joint).clamp_min(0.0)


def expected_information(table: Tensor) -> Tensor:
    r"""Return the plug-in information that chance gives to two labellings with these margins.

    :math:`\sum_{ij} \sum_n \frac{n}{N} \log \frac{N n}{a_i c_j} P(n)` with row sums a, column sums
    c and the hypergeometric P of labels that are dealt out at random,
    :math:`a! c! (N - a)! (N - c)! / N! n! (a - n)! (c - n)! (N - a - c + n)!` (Vinh, Epps and
    Bailey, JMLR 2010, Eq. 24a).

    Args:
        table: counts, ``[R, C]``.

    Returns:
        A scalar, float64, nats.
    """
    counts = table.to(torch.float64)
    total, a, c = counts.sum(), counts.sum(-1)[:, None, None], counts.sum(-2)[:, None]
    most = int(torch.minimum(a.amax(), c.amax()))
    n = torch.arange(1, most + 1, device=table.device)  # [R, C, n] from here on
    possible = (n <= a) & (n <= c) & (n >= a + c - total)
    chosen = _log_factorial(a) + _log_factorial(c) + _log_factorial(total - a)
    dealt = _log_factorial(n) + _log_factorial(a - n) + _log_factorial(c - n)
    rest = _log_factorial(total - c) - _log_factorial(total) - _log_factorial(total - a - c + n)
    terms = n / total * torch.log(n * total / (a * c)) * torch.exp(chosen + rest - dealt)
    return torch.where(possible, terms, 0.0).sum()


def adjusted_information(table: Tensor) -> Tensor:
    r""":math:`H(X) (I - E) / (H(X) - E)`: information beyond chance, stretched to reach H(X).

    E is :func:`expected_information`. Labels that have nothing to do with each other have 0 nats
    (their plug-in estimate is E), and where Y tells X it is still H(X), the entropy of the rows.

    Args:
        table: counts, ``[R, C]``; X are the rows.

    Returns:
        A scalar, float64, in [0, H(X)]; 0 where chance tells all, as with one sample of each row.
    """
    limit = entropy(table.sum(-1))
    return limit * _beyond_chance(table, limit).clamp_max(1.0)


def adjusted_mutual_information(table: Tensor) -> Tensor:
    r""":math:`(I - E) / ((H(X) + H(Y)) / 2 - E)` (Vinh, Epps and Bailey, JMLR 2010, Eq. 21).

    Args:
        table: counts, ``[R, C]``.

    Returns:
        A scalar, float64, in [0, 1]: 1 where the partitions agree up to names, 0 by chance and
        where there is a single part.
    """
    return _beyond_chance(table, 0.5 * (entropy(table.sum(-1)) + entropy(table.sum(-2))))


def _beyond_chance(table: Tensor, limit: Tensor) -> Tensor:
    chance = expected_information(table)
    excess, room = (mutual_information(table) - chance).clamp_min(0.0), limit - chance
    return torch.where(room > 1e-9, excess / room, 0.0)


def _log_factorial(number: Tensor) -> Tensor:
    return torch.lgamma(number.clamp_min(0) + 1.0)


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
