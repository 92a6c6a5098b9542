"""Paths as such: where they lead, however fast they are gone."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["along_path"]


def along_path(features: Tensor, entry_length: int) -> Tensor:
    """Return paths at equal distances along themselves instead of equal times.

    Two episodes that take the same way at different speeds are then close, and what differs at a
    moment is where they go, not how far they have come.

    Args:
        features: points of paths, one behind the other, ``[*B, T * d]``.
        entry_length: length d of a point.

    Returns:
        T points of each path, ``[*B, T * d]``: its first, its last, and equally far between them
        along its straight pieces. A path that stands still is left as it is.
    """
    points = features.unflatten(-1, (-1, entry_length))
    count = points.shape[-2]
    if count < 3:
        return features
    pieces = (points[..., 1:, :] - points[..., :-1, :]).norm(dim=-1)
    gone = torch.cat([torch.zeros_like(pieces[..., :1]), pieces.cumsum(-1)], -1).contiguous()
    share = torch.linspace(0.0, 1.0, count, dtype=gone.dtype, device=gone.device)
    wanted = (share * gone[..., -1:]).contiguous()
    after = torch.searchsorted(gone, wanted, right=True).clamp(1, count - 1)
    start, end = gone.gather(-1, after - 1), gone.gather(-1, after)
    weight = ((wanted - start) / (end - start).clamp_min(1e-9)).clamp(0.0, 1.0).unsqueeze(-1)
    index = after.unsqueeze(-1).expand(*after.shape, entry_length)
    low, high = points.gather(-2, index - 1), points.gather(-2, index)
    return (low + weight * (high - low)).flatten(-2)
