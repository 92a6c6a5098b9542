"""Fitting a steering policy through a decoder, uphill on the outcome model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.discovery.decoders import OBSERVED
from modereg.discovery.outcome import OutcomeModel
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy

__all__ = ["CodeStates", "guide"]

BATCH = 256
"""States of a gradient step."""

ANYWHERE = 0.25
"""Share of the states that are drawn from all, whatever their episode reached."""


class CodeStates:
    """Draws codes, equally often, and decisions at which a code may be commanded.

    Most are of episodes that reached the code or were commanded it, else pairs that never happen
    would outweigh the others.

    Args:
        outcomes: what the episodes of the decisions reached, ``[n]``.
        codes: what they were commanded, ``[n]``; K for the base.
        num_codes: K.
    """

    def __init__(self, outcomes: Tensor, codes: Tensor, num_codes: int) -> None:
        every = torch.arange(len(codes), device=codes.device)
        rows = [((outcomes == k) | (codes == k)).nonzero()[:, 0] for k in range(num_codes)]
        rows = [own if len(own) else every for own in rows]
        self.num_codes, self.total = num_codes, len(codes)
        self.counts = torch.tensor([len(own) for own in rows], device=codes.device)
        self.starts = self.counts.cumsum(0) - self.counts
        self.rows = torch.cat(rows)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Return rows and codes, each ``[size]``."""
        device = self.rows.device
        code = torch.randint(self.num_codes, (size,), device=device)
        place = (torch.rand(size, device=device) * self.counts[code]).long()
        own = self.rows[self.starts[code] + place]
        free = torch.rand(size, device=device) < ANYWHERE
        return torch.where(free, torch.randint(self.total, (size,), device=device), own), code


def guide(
    steering: SteeringPolicy,
    model: OutcomeModel,
    decode: Callable[[TensorDictBase, Tensor], Tensor],
    rows: TensorDictBase,
    states: CodeStates,
    players: Tensor,
    kl_coef: Tensor,
    steps: int,
    *,
    residual: ChunkResidual | None = None,
    learning_rate: float = 2e-3,
    batch_size: int = BATCH,
) -> dict[str, float]:
    r"""Push the steering policy uphill on the outcome model, by its reparametrised noise.

    It maximises

    .. math::
        E_{z, s, w \sim \psi(\cdot | s, z)} \log Q(z | s, f(s, w), c_z)
        - \beta_z\, KL(\psi(\cdot | s, z) \| N(0, I)).

    A residual u on the chunk features is pushed uphill with it: f(s, w) + u(s, z) stands in the
    place of f(s, w), and :math:`\beta_z |u|^2 / 2`, the divergence of two unit Gaussians that are u
    apart, is subtracted. No gradient of the decoder is needed for that. Since chunks then leave
    what was ever played, the least of Q's members counts instead of their mean.

    No likelihood of a noise is in it, and each state gives as many noises as there are steps: there
    is nothing to learn by heart, however many dimensions the noise has.

    Args:
        steering: psi, changed in place.
        model: Q.
        decode: f, from noises at rows to chunk features, with a gradient.
        rows: decisions, ``[n]``: what psi, the decoder and Q read of an observation.
        states: which of them are drawn for which code.
        players: c, who plays on after each code's chunk, ``[K]``.
        kl_coef: beta of each code, ``[K]``.
        steps: Adam steps.
        residual: changed in place; None has none.
        learning_rate: at the start; it falls to a tenth along a cosine.
        batch_size: states of a step.

    Returns:
        ``log_outcome``, the mean log Q of the last tenth of the steps, and ``kl``, that of the
        residual included, both nats.
    """
    learned = [*steering.parameters(), *(() if residual is None else residual.parameters())]
    optimizer = torch.optim.Adam(learned, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(steps, 1), learning_rate / 10
    )
    tail: list[Tensor] = []
    for step in range(steps):
        index, code = states.draw(batch_size)
        batch = rows[index]
        one_hot = torch.nn.functional.one_hot(code, states.num_codes).float()
        batch.set(steering.latent_key, one_hot)
        psi = steering.distribution(batch)
        features = decode(batch, psi.rsample())
        cost = psi.kl_to_standard_normal()
        if residual is not None:
            move = residual.shift(batch)
            features, cost = features + move, cost + 0.5 * move.square().sum(-1)
        members = model.log_prob(batch.get(OBSERVED), features, players[code])
        log_prob = members.mean(0) if residual is None else members.min(0).values
        reached = log_prob.gather(-1, code.unsqueeze(-1)).squeeze(-1)
        loss = (kl_coef[code] * cost - reached).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= 0.9 * steps - 1:
            tail.append(torch.stack([reached.mean(), cost.mean()]).detach())
    means = torch.stack(tail).mean(0).tolist() if tail else [0.0, 0.0]
    return dict(zip(("log_outcome", "kl"), means, strict=True))
