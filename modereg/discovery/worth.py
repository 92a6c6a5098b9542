"""Which codes are worth steering, and how often: the whole must lose neither success nor modes."""

from __future__ import annotations

import torch
from torch import Tensor

from modereg import functional
from modereg.metrics import PRESENT

__all__ = ["above_chance", "code_shares", "worth_steering"]

SIGNIFICANT = 2.0
"""Standard errors above the base's own noise from which a code counts as reached by steering."""

ENTROPY_LOST = 0.05
"""Entropy of the codes, over log K, that may be lost. Codes are finer than modes, and a base that
shows all equally often has none to gain: if nothing could be lost, nothing would be steered."""

RARE, KEPT, MOST = 1.25 * PRESENT, 2 * PRESENT, 0.5
"""Share of the successes from which a behaviour of the base is kept, how much of it is, and the
share of the episodes that those codes take for it at most that show it most often."""

GROWTH, TIMES = 1.05, 100
"""How a code's weight grows at a time, and how often at most."""

ROUNDING = 1e-6
"""Shares in single precision add up to 1 no more exactly than this."""


def worth_steering(table: Tensor, base: Tensor, episodes: int) -> Tensor:
    """Return the codes whose steering pays, ``[K]`` bool.

    A code that is reached no more often than by the base's own noise, by two standard errors, is
    not steered. Others are given up, one after the other, until all codes together, equally often,
    with the base's noise for those that are not steered, succeed as often as the base, within one
    standard error, and over as many codes, within 0.05 of their entropy: the one that succeeds
    least as long as success is lost, and then the one that is hit least.

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
        if found[0] < success - margin:
            worth = table[:, :-1].sum(1)
        elif found[1] < entropy - ENTROPY_LOST:
            worth = hits
        else:
            break
        steered[worth.masked_fill(~steered, torch.inf).argmin()] = False
    return steered


def code_shares(table: Tensor, base: Tensor, steered: Tensor) -> Tensor:
    """Return how often to draw each code so that no behaviour of the base is thinned out, ``[K]``.

    A rare behaviour that no code commands is left to those codes that play the base, and equally
    often drawn those that command something else crowd it out. So codes are drawn equally often
    unless a behaviour that the base shows in 0.0125 of its successes, or more, has less than that
    and less than 0.02: then those that reach it most often are drawn more often, until it has as
    much, or they take half of the episodes.

    Args:
        table: share of each outcome among a code's episodes, ``[K, K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        steered: which codes are steered, ``[K]`` bool; the others play the base.
    """
    played = torch.where(steered[:, None], table, base)[:, :-1]
    shown = base[:-1] / base[:-1].sum().clamp_min(ROUNDING)
    weights, least = torch.ones_like(shown), shown.clamp_max(KEPT)
    for _ in range(TIMES):
        reached = weights @ played
        short = (shown >= RARE) & (reached < least * reached.sum() - ROUNDING)
        if not bool(short.any()):
            break
        rarest = int(reached.masked_fill(~short, torch.inf).argmin())
        best = played[:, rarest] >= played[:, rarest].max() - ROUNDING
        grown = torch.where(best, GROWTH * weights, weights)
        if float(grown[best].sum()) > MOST * float(grown.sum()) and not bool(best.all()):
            break
        weights = grown
    return weights / weights.sum()


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
