"""How much of an outcome chance decides, and how much the policy's noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modereg.discovery.outcome import OutcomeModel

__all__ = ["chance_shares"]

NOISES = 8
"""Noises that are tried at a decision."""


@torch.no_grad()
def chance_shares(
    model: OutcomeModel,
    observations: Tensor,
    features: Tensor,
    tried: Callable[[], Tensor],
    outcomes: Tensor,
    episodes: Tensor,
) -> Tensor:
    r"""Return, of each code, the share of its variance that comes after the noise was drawn.

    Along an episode the probability of an outcome moves from its mean at the start to 0 or 1: by
    the noise at each decision, from :math:`V(s_t)` to :math:`Q(s_t, a_t)`, and by what the
    environment does with the chunk, from :math:`Q(s_t, a_t)` to :math:`V(s_{t+1})`. Both are
    martingale differences, so that their mean squares add up to the variance of the outcome. Where
    the second part is most of it, no noise commands the outcome.

    Args:
        model: Q, under the base as the player.
        observations: of whole episodes' decisions, one behind the other, ``[n, d]``.
        features: of the played chunks, ``[n, k]``.
        tried: returns features of chunks at the same decisions of newly drawn noises, ``[n, k]``.
        outcomes: of the episodes, ``[n]``.
        episodes: their numbers, ``[n]``.

    Returns:
        ``[K]`` in [0, 1].
    """
    base = torch.full_like(outcomes, model.base)

    def probability(of: Tensor) -> Tensor:
        log_prob = model.log_prob(observations, of, base)
        return log_prob.exp().mean(0)[:, :-1]

    drawn = torch.stack([probability(tried()) for _ in range(NOISES)])
    value, played = drawn.mean(0), probability(features)
    by_noise = drawn.var(0)
    reached = torch.nn.functional.one_hot(outcomes, model.num_codes + 1)[:, :-1].to(value)
    ends = torch.ones_like(episodes, dtype=torch.bool)
    ends[:-1] = episodes[1:] != episodes[:-1]
    following = torch.where(ends[:, None], reached, value.roll(-1, 0))
    noise_of_value = by_noise / NOISES  # V is a mean over few noises
    by_chance = (following - played).square() - torch.where(
        ends[:, None], 0.0, noise_of_value.roll(-1, 0)
    )
    parts = by_noise.sum(0), by_chance.sum(0).clamp_min(0.0)
    return parts[1] / (parts[0] + parts[1]).clamp_min(1e-12)
