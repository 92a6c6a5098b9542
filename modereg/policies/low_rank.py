r"""Low-rank adapters (LoRA): :math:`W' = W + U D`, of which U and D are trained alone.

By parametrizations of torch, so that a layer whose weight is read past its ``forward``, as the fast
path of torch's transformers reads it, is changed too. Reference: Hu et al., LoRA: Low-Rank
Adaptation of Large Language Models, arXiv 2106.09685; its alpha / r is 1 here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modereg.errors import ConfigurationError

__all__ = ["LowRank", "copy_plain", "low_rank_copy", "merged"]

Kind = TypeVar("Kind", bound=nn.Module)


class LowRank(nn.Module):
    r"""Adds :math:`U D` to a weight: zero at first, since U is.

    Args:
        weight: ``[m, ...]``, taken as a matrix ``[m, n]``, as a convolution's is.
        rank: r, at most that of such a matrix.

    Attributes:
        up: U, ``[m, r]``, zeros.
        down: D, ``[r, n]``, uniform in :math:`\pm 1 / \sqrt n`.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.down = nn.Parameter(torch.empty_like(weight.flatten(1)[:rank]))
        nn.init.uniform_(self.down, -(columns**-0.5), columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, ``[m, ...]`` as it was."""
        return weight + (self.up @ self.down).view_as(weight)


def low_rank_copy(module: Kind, rank: int) -> Kind:
    """Return a copy in which low-rank adapters are all that requires a gradient.

    Every weight of at least two dimensions has one, of linear layers, convolutions and attention;
    tables of embeddings, recurrent layers and weights that several layers share have none. The
    copy holds the weights of the module itself, so that a large one is in memory once.

    Args:
        module: which stays as it is.
        rank: r.

    Raises:
        ConfigurationError: if the rank is not positive, there is no such weight, or the adapters
            would be as large as the weights.
    """
    if rank < 1:
        raise ConfigurationError(f"expected a rank of at least 1, got {rank}")
    there = (*module.parameters(), *module.buffers())
    shared = {id(value): _held(value) for value in there}
    made = copy.deepcopy(module, shared)
    matrices = list(_matrices(made))
    for owner, name, value in matrices:
        parametrize.register_parametrization(owner, name, LowRank(value, rank))
    own = sum(value.numel() for value in made.parameters() if value.requires_grad)
    whole = sum(value.numel() for *_, value in matrices)
    if own >= whole:
        raise ConfigurationError(
            f"expected a rank at which adapters have fewer numbers than the {whole} of the weights "
            f"that they adapt in {type(module).__name__}, got {rank}, with {own}; lower it, or "
            "train all weights"
        )
    return made


def merged(adapted: nn.Module, base: Kind) -> Kind:
    """Return a copy of a module with plain weights that plays as its trained copy does.

    Args:
        adapted: the copy, low-rank (:func:`low_rank_copy`) or not, which stays as it is.
        base: what it is a copy of, likewise.
    """
    made = copy.deepcopy(base)
    copy_plain(adapted, made)
    return made


@torch.no_grad()
def copy_plain(adapted: nn.Module, into: nn.Module) -> None:
    """Write the weights that a trained copy plays into another copy, one without adapters."""
    for place, part in into.named_modules():
        for name, value in part.named_parameters(recurse=False):
            value.copy_(getattr(adapted.get_submodule(place), name))


def _held(value: Tensor) -> Tensor:
    """Return the same numbers as another tensor, which requires no gradient."""
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach(), requires_grad=False)
    return value.detach()


def _matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield the weights that are adapted: whose they are, their names, and themselves."""
    uses = Counter(id(value) for part in module.modules() for value in part._parameters.values())
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            continue
        for name, value in list(part.named_parameters(recurse=False)):
            matrix = name.endswith("weight") and value.ndim > 1 and value.is_floating_point()
            if matrix and uses[id(value)] == 1:
                yield part, name, value
