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

TAKEN = 0.1
"""Price of an episode that another code does not get, in successes."""

SELDOM = 0.1
"""Weight of a code that costs success, beside those that do not."""

SHORT = 0.5
"""Standard errors by which success may be lower, before codes that cost it are drawn seldom."""

GROWTH, TIMES = 1.05, 200
"""How a code's weight grows at a time, and how often at most."""

ROUNDING = 1e-6
"""Shares in single precision add up to 1 no more exactly than this."""


def worth_steering(table: Tensor, base: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes whose steering pays, ``[K]`` bool, and how often each is drawn, ``[K]``.

    A code that is reached no more often than by the base's own noise, by two standard errors, is
    not steered. All codes together, with the base's noise for those that are not steered, must
    succeed as often as the base, within one standard error, and over as many codes, within 0.05 of
    their entropy. Codes that succeed less than the base, by two standard errors, are drawn a tenth
    as often, if that keeps the entropy: they can still be commanded. The others that succeed less
    follow, the worst first, as long as success is lost by half a standard error; if all are drawn
    so already the one that succeeds least is given up; and then, for the entropy, the one that is
    hit least. At last :func:`code_shares` has a look at what is rare.

    Args:
        table: share of each outcome among a code's episodes, ``[K, K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        episodes: how many episodes of each code the table was counted in, ``[K]``.
    """
    num_codes, weights = len(table), torch.ones_like(base[:-1])
    hits, successes = table.diagonal(), table[:, :-1].sum(1)
    episodes = episodes.clamp_min(1)
    steered = above_chance(hits, base[:-1], episodes)
    success, entropy = _figures(base)
    spread = max(success * (1 - success), 0.0) ** 0.5
    margin = spread / float(episodes.sum()) ** 0.5 + ROUNDING

    def lost(weights: Tensor) -> tuple[float, bool]:
        """Return the success that is lost, in standard errors, and whether entropy is."""
        played = torch.where(steered[:, None], table, base)
        found = _figures(weights @ played / weights.sum())
        return (success - found[0]) / margin, found[1] < entropy - ENTROPY_LOST

    def without(codes: Tensor) -> Tensor:
        return torch.where(codes, SELDOM, weights)

    costly = steered & (successes < success - SIGNIFICANT * spread / episodes.sqrt() - ROUNDING)
    short, fewer = lost(without(costly))
    weights = weights if short > 1 or fewer else without(costly)
    while bool(steered.any()):
        short, fewer = lost(weights)
        often = steered & (weights == 1) & (successes < success - ROUNDING)
        worst = torch.arange(num_codes, device=table.device) == _least(successes, often)
        if bool(often.any()) and (short > 1 or (short > SHORT and not lost(without(worst))[1])):
            weights = without(worst)
        elif short > 1 or fewer:
            given_up = _least(successes if short > 1 else hits, steered)
            steered[given_up], weights[given_up] = False, 1.0
        else:
            break
    return steered, code_shares(table, base, steered, weights, success - margin)


def _least(values: Tensor, among: Tensor) -> int:
    return int(values.masked_fill(~among, torch.inf).argmin())


def code_shares(
    table: Tensor,
    base: Tensor,
    steered: Tensor,
    weights: Tensor | None = None,
    least_success: float = 0.0,
) -> Tensor:
    """Return how often to draw each code so that no behaviour of the base is thinned out, ``[K]``.

    They add up to 1. A rare behaviour that no code commands is left to those codes that play the
    base, and equally often drawn those that command something else crowd it out. So codes are drawn
    as they are unless a behaviour that the base shows in 0.0125 of its successes, or more, has less
    than that and less than 0.02: then the code that reaches it at the least price is drawn more
    often, until it has as much, or takes half of the episodes, or success falls below what is
    asked for. The price is what the code succeeds less than the base, and 0.1 for each
    episode that another code does not get.

    Args:
        table: share of each outcome among a code's episodes, ``[K, K + 1]``; the last is none.
        base: the same of the base, ``[K + 1]``.
        steered: which codes are steered, ``[K]`` bool; the others play the base.
        weights: how often they are drawn to begin with, ``[K]``; None is equally often.
        least_success: below which success must not fall for it.
    """
    played = torch.where(steered[:, None], table, base)[:, :-1]
    shown = base[:-1] / base[:-1].sum().clamp_min(ROUNDING)
    weights = torch.ones_like(shown) if weights is None else weights
    least = shown.clamp_max(KEPT)
    price = (base[:-1].sum() - played.sum(1)).clamp_min(0.0) + TAKEN
    for _ in range(TIMES):
        reached = weights @ played
        short = (shown >= RARE) & (reached < least * reached.sum() - ROUNDING)
        if not bool(short.any()):
            break
        rarest = _least(reached, short)
        worth = played[:, rarest] / price
        best = worth >= worth.max() - ROUNDING
        grown = torch.where(best, GROWTH * weights, weights)
        if float(grown[best].sum()) > MOST * float(grown.sum()) and not bool(best.all()):
            break
        success = float((grown @ played).sum() / grown.sum())
        if success < least_success and success < float(reached.sum() / weights.sum()):
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
