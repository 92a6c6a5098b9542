r"""Values as categorical distributions over fixed atoms.

C51 is Bellemare, Dabney and Munos, A Distributional Perspective on Reinforcement Learning, arXiv
1707.06887.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["categorical_mean", "lower_categorical", "project_categorical"]


def categorical_mean(probs: Tensor, atoms: Tensor) -> Tensor:
    r""":math:`\sum_i p_i z_i`.

    Args:
        probs: ``[*B, N]``.
        atoms: z, ``[*B, N]`` or what broadcasts to it.

    Returns:
        ``[*B]``.
    """
    return (probs * atoms).sum(-1)


def project_categorical(probs: Tensor, places: Tensor, atoms: Tensor) -> Tensor:
    r"""Move mass to the two nearest atoms, in proportion to its distance from them (C51, Eq. 7).

    :math:`(\Phi p)_i = \sum_j \bigl[1 - |[x_j]_{z_1}^{z_N} - z_i| / \Delta z\bigr]_0^1 p_j`. The
    mean is kept where every place lies within the support; mass beyond it goes to the last atom.
    The result sums to what ``probs`` sums to.

    Args:
        probs: p, ``[*B, M]``.
        places: x, where that mass lies, ``[*B, M]``.
        atoms: z, equally spaced and rising, ``[*B, N]`` or what broadcasts to it.

    Returns:
        ``[*B, N]``.
    """
    low, high = atoms[..., :1], atoms[..., -1:]
    places = torch.minimum(torch.maximum(places, low), high)
    spacing = (high - low) / (atoms.shape[-1] - 1)
    apart = (places.unsqueeze(-2) - atoms.unsqueeze(-1)).abs() / spacing.unsqueeze(-1)
    return (probs.unsqueeze(-2) * (1.0 - apart).clamp_min(0.0)).sum(-1)


def lower_categorical(probs: Tensor, atoms: Tensor) -> Tensor:
    r"""Return the whole distribution of the member whose mean is the lowest.

    Clipped double Q-learning (arXiv 1802.09477) for distributions: what it returns is one of them
    and sums to 1. The minimum atom by atom, as DDiffPG's code has it, is no distribution.

    Args:
        probs: ``[E, *B, N]``.
        atoms: ``[*B, N]`` or what broadcasts to it.

    Returns:
        ``[*B, N]``.
    """
    lowest = categorical_mean(probs, atoms).argmin(0)
    index = lowest[None, ..., None].expand(1, *probs.shape[1:])
    return probs.gather(0, index).squeeze(0)
