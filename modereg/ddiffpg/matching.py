"""Which cluster of a new clustering is which of the old one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modereg import functional
from modereg.errors import ShapeError

__all__ = ["Matching", "match_clusters"]

LEAST = 0.1
"""Jaccard similarity from which two clusters may be one, and share of a new one's members that an
old one must hold to be its origin."""


@dataclass(frozen=True)
class Matching:
    """What :func:`match_clusters` found.

    Attributes:
        kept: the old cluster that each new one is, ``[K]`` int64, -1 where it is none.
        origin: the old cluster that most of its members come from, ``[K]`` int64, whether it is
            that one or has split off; -1 where it comes from none.
    """

    kept: Tensor
    origin: Tensor


def match_clusters(old: Tensor, new: Tensor, num_old: int) -> Matching:
    """Match clusters by their common members, each old one with one new one at most.

    The assignment of the largest sum of Jaccard similarities (Kuhn, The Hungarian method, 1955):
    the order in which clusters come decides nothing.

    Args:
        old: cluster of each trajectory before, ``[N]`` int64 in [-1, ``num_old``); -1 for those
            that are new.
        new: cluster of the same now, ``[N]`` int64, from 0 without gaps.
        num_old: number of clusters before.

    Raises:
        ShapeError: if the two are not of one length, at least 1.
    """
    if old.shape != new.shape or old.ndim != 1 or not len(old):
        raise ShapeError(
            f"expected two labels [N] of N trajectories, got {tuple(old.shape)} and "
            f"{tuple(new.shape)}"
        )
    number = int(new.max()) + 1
    kept = torch.full((number,), -1, dtype=torch.int64)
    if num_old == 0:
        return Matching(kept, kept.clone())
    known = old >= 0
    table = functional.contingency(new[known], old[known], number, num_old).double()
    union = table.sum(1, keepdim=True) + table.sum(0, keepdim=True) - table
    similarity = table / union.clamp_min(1.0)
    for row, column in zip(*linear_sum_assignment(similarity.numpy(), maximize=True)):
        if similarity[row, column] >= LEAST:
            kept[row] = int(column)
    most, origin = table.max(1)
    share = most / torch.bincount(new, minlength=number).clamp_min(1)
    origin = torch.where(kept >= 0, kept, torch.where(share >= LEAST, origin, -1))
    return Matching(kept, origin)
