"""Which codes are worth steering: the whole must lose neither success nor modes to the base."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg import functional

__all__ = ["above_chance", "worth_steering"]

SIGNIFICANT = 2.0
"""Standard errors above the base's own noise from which a code counts as reached by steering."""

ENTROPY_LOST = 0.05
"""Entropy of the codes, over log K, that may be lost. Codes are finer than modes, and a base that
shows all equally often has none to gain: if nothing could be lost, nothing would be steered."""

ROUNDING = 1e-6
"""Shares in single precision add up to 1 no more exactly than this."""


def worth_steering(table: Tensor, base: Tensor, episodes: int) -> Tensor:
    """Return the codes whose steering pays, ``[K]`` bool.

    A code that is reached no more often than by the base's own noise, by two standard errors, is
    not steered. Of the others those that are hit least are given up, one after the other, until
    all codes together, equally often, with the base's noise for those that are not steered, succeed
    as often as the base, within one standard error, and over as many codes, within 0.05 of their
    entropy.

    Args:
        table: share of each outcome among a code's episodes, ``[K, K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        episodes: how many episodes of all codes the table was counted in.
    """
    num_codes = len(table)
    hits, chance = table.diagonal(), base[:-1]
    steered = above_chance(hits, chance, max(episodes, 1) / num_codes)
    success, entropy = _figures(base)
    margin = (max(success * (1 - success), 0.0) / max(episodes, 1)) ** 0.5 + ROUNDING
    while bool(steered.any()):
        found = _figures(torch.where(steered[:, None], table, base).mean(0))
        if found[0] >= success - margin and found[1] >= entropy - ENTROPY_LOST:
            break
        steered[hits.masked_fill(~steered, torch.inf).argmin()] = False
    return steered


def above_chance(hits: Tensor, chance: Tensor, episodes: Tensor | float) -> Tensor:
    """Return which codes are reached more often than by the base's own noise, ``[K]`` bool.

    Args:
        hits: share of its episodes in which each code is reached, ``[K]``.
        chance: the same of the base's episodes, ``[K]``.
        episodes: how many each code had.
    """
    return hits > chance + SIGNIFICANT * (chance * (1 - chance) / episodes).sqrt()


def _figures(outcomes: Tensor) -> tuple[float, float]:
    """Return success, and the entropy of the codes among it over log K."""
    reached = outcomes[:-1]
    return float(reached.sum()), float(functional.normalized_entropy(reached, len(reached)))
