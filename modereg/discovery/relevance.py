"""Which dimensions of the feature the policy decides: the others tell no behaviours apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from torch import Tensor

from modereg import keys
from modereg.errors import ShapeError
from modereg.layout import Layout
from modereg.rollouts import Episodes

__all__ = ["course", "decided_shares", "left_out", "undecided_dims"]

FEW, MANY = 500, 256
"""Episodes below which, and dimensions above which nothing is said."""

LOOKS = 8
"""Decisions at which one looks at most, evenly spaced over the longest episode."""

LITTLE, BESIDE = 0.05, 0.1
"""Share below which a dimension counts as not decided, by itself and beside the largest share."""

RIDGE, WAVES = 1e-3, 64
"""Weight of the squared coefficients, for standardised inputs, and random features beside them."""

MOVES = 1e-6
"""Share of its change that a start must leave open for a dimension to count as moving."""


def decided_shares(history: Tensor, played: Tensor, valid: Tensor) -> Tensor:
    """Return the share of each dimension's course that what was played explains, ``[F]``.

    A dimension's change since the start of the episode is predicted from the start, and from the
    start and the actions so far (their mean, those of the first chunk and of the last), with half
    of the episodes for the other half. The share is by how much the second error is smaller, over
    several decisions together, of the episodes that have come so far: about 0 for a clock, a goal
    that is drawn at the start, and for what moves by itself, below 0 by no more than chance.
    Decisions after the first that fewer than 250 episodes came to are not looked at.

    Args:
        history: the feature at the start and after each decision, ``[N, T + 1, F]``.
        played: mean action of each chunk as it was played, ``[N, T, A]``.
        valid: which decisions were made, ``[N, T]`` bool.

    Raises:
        ShapeError: if there are other numbers of episodes or decisions.
    """
    episodes, decisions = valid.shape
    if history.shape[:2] != (episodes, decisions + 1) or played.shape[:2] != valid.shape:
        raise ShapeError(
            f"expected a history [N, T + 1, F] and actions [N, T, A] of {episodes} x {decisions} "
            f"decisions, got {tuple(history.shape)} and {tuple(played.shape)}"
        )
    history, mask = history.cpu().double(), valid.cpu().double()[..., None]
    played = torch.where(mask > 0, played.cpu().double(), 0.0)
    start = history[:, 0]
    number = mask.cumsum(1).clamp_min(1.0)
    mean = played.cumsum(1) / number
    total, open_, left = (torch.zeros_like(start[0]) for _ in range(3))
    for time in torch.linspace(1, decisions, min(LOOKS, decisions)).long().unique().tolist():
        rows = valid[:, time - 1].cpu()
        if time > 1 and int(rows.sum()) < FEW // 2:
            break
        change, begun = (history[:, time] - start)[rows], start[rows]
        seen = torch.cat([mean[:, time - 1], played[:, 0], played[:, time - 1]], -1)[rows]
        total += change.square().sum(0)
        open_ += _held_out_error(begun, change)
        left += _held_out_error(torch.cat([begun, seen], -1), change)
    shares = 1 - left / open_.clamp_min(torch.finfo(open_.dtype).tiny)
    return torch.where(open_ > MOVES * total, shares, 0.0)


def course(episodes: Episodes, layout: Layout, feature_key: NestedKey = keys.HISTORY) -> Tensor:
    """Return the feature at the start and after each decision of the longest, ``[N, L, F]``."""
    return episodes.final.get(feature_key).unflatten(-1, (layout.max_decisions + 1, -1))


def undecided_dims(
    episodes: Episodes, layout: Layout, feature_key: NestedKey = keys.HISTORY
) -> list[int]:
    """Return the dimensions of the feature whose course the base does not decide.

    Those of next to no share (:func:`decided_shares`); none where nothing stands out, episodes are
    too few to tell, or it has more than 256 dimensions, as images do.

    Args:
        episodes: of the base, with the chunk of each decision in ``next``.
        layout: of the environment.
        feature_key: entry of the history, ``[N, L * F]``.
    """
    if len(episodes) < FEW:
        return []
    decisions = episodes.valid.shape[1]
    history = course(episodes, layout, feature_key)
    if history.shape[-1] > MANY or not bool(torch.isfinite(history).all()):
        return []
    chunks = episodes.decisions.get(("next", keys.CHUNK))
    played = chunks[:, :, layout.offset : layout.offset + layout.played].float().mean(2)
    shares = decided_shares(history[:, : decisions + 1], played, episodes.valid)
    little = shares < min(LITTLE, BESIDE * float(shares.max()))
    return little.nonzero()[:, 0].tolist() if float(shares.max()) > LITTLE else []


def left_out(dims: Sequence[int], layout: Layout) -> str:
    """Return the beginning of a sentence on such dimensions."""
    where = ", ".join(map(str, layout.features))
    which = "dimension" if len(dims) == 1 else "dimensions"
    names = ", ".join(map(str, dims))
    return f"{which} {names} of the feature ({where}) do not depend on what is played"


def _held_out_error(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of squared errors of each target, each half predicted by the other, ``[F]``.

    Of a linear prediction, or of one with random Fourier features (Rahimi and Recht, 2007) beside,
    whichever is better.
    """
    spread, mean = torch.std_mean(inputs, 0)
    inputs = (inputs - mean) / torch.where(spread > 0, spread, 1.0)
    generator = torch.Generator().manual_seed(0)
    size = inputs.shape[1]
    weights = torch.randn(size, WAVES, generator=generator, dtype=inputs.dtype) / size**0.5
    phases = 2 * torch.pi * torch.rand(WAVES, generator=generator, dtype=inputs.dtype)
    plain = torch.cat([inputs, torch.ones_like(inputs[:, :1])], -1)
    waves = torch.cat([plain, torch.cos(inputs @ weights + phases)], -1)
    return torch.minimum(*(_of_halves(each, targets) for each in (plain, waves)))


def _of_halves(inputs: Tensor, targets: Tensor) -> Tensor:
    error, halves = torch.zeros_like(targets[0]), torch.arange(len(inputs)) % 2
    for half in (0, 1):
        seen, other = halves != half, halves == half
        x, y = inputs[seen], targets[seen]
        gram = x.mT @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        predicted = inputs[other] @ torch.linalg.solve(gram, x.mT @ y)
        error += (targets[other] - predicted).square().sum(0)
    return error
