r"""Mutual information by a critic that is trained on some samples and read on others; in nats.

A critic f(x, y) learns to tell pairs that belong together from pairs that do not; what it is
trained to maximise, and what is read off it, are the functions of
:mod:`modereg.functional.critics`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from modereg import functional
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.information import _samples
from modereg.networks import MLP

__all__ = [
    "Bound",
    "InformationEstimate",
    "SeparableCritic",
    "estimate_information",
]

Bound = Literal["dv", "nwj", "mine", "smile", "js", "info_nce"]
"""Names of the estimates, see :func:`estimate_information`."""

VALIDATIONS = 30
"""How often in training the critic is validated."""

_OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dv": functional.donsker_varadhan,
    "nwj": functional.nwj,
    "mine": functional.donsker_varadhan,  # its value; training takes its own gradient
    "smile": functional.jensen_shannon,
    "js": functional.jensen_shannon,
    "info_nce": functional.info_nce,
}


@dataclass(frozen=True)
class InformationEstimate:
    """What :func:`estimate_information` returns.

    Attributes:
        value: the estimate on held-out samples, nats; may be negative.
        standard_error: of the value, over draws of the held-out samples for this critic and its
            standardisation, nats. It says nothing of how far below the truth a critic stays that
            learned too little.
        train_value: the estimate on as many training samples; well above ``value``, the critic has
            learned them by heart.
        num_samples: number of held-out samples.
    """

    value: float
    standard_error: float
    train_value: float
    num_samples: int


def estimate_information(
    x: Tensor,
    y: Tensor,
    *,
    bound: Bound = "info_nce",
    critic: nn.Module | None = None,
    hidden: Sequence[int] = (128, 128),
    steps: int = 1000,
    batch_size: int = 256,
    lr: float = 1e-3,
    clip: float = 5.0,
    held_out: float = 0.2,
    chunk_size: int = 512,
    seed: int = 0,
) -> InformationEstimate:
    r"""Estimate I(X; Y) by a critic, on samples that it was not trained on.

    ====================  ===================================  =================================
    ``bound``             the critic maximises                 the estimate is
    ====================  ===================================  =================================
    ``"dv"``              Donsker and Varadhan's bound         the same
    ``"mine"``            the same with MINE's gradient        Donsker and Varadhan's bound
    ``"nwj"``             Nguyen, Wainwright and Jordan's      the same
    ``"js"``              the bound of the JS divergence       NWJ's bound for the shifted critic
    ``"smile"``           the bound of the JS divergence       SMILE, which is no bound
    ``"info_nce"``        InfoNCE                              InfoNCE, at most log ``chunk_size``
    ====================  ===================================  =================================

    The samples are shuffled and held out in part. Of the rest a tenth (at most 2000) chooses the
    critic among those of some 30 moments of the training; the others train it by Adam, its learning
    rate falling to 0 along a cosine, its gradient clipped to norm 1. Continuous inputs are
    standardised by the training samples; integers are codes and become one-hot. The held-out
    samples are read in blocks of at most ``chunk_size``, whose pairs off the diagonal stand for the
    product of the marginals, so memory grows no faster than N. The standard error is the
    infinitesimal jackknife's, which counts that a sample is in many pairs.

    Torch's global generators are left as they are: everything follows from ``seed``.

    Args:
        x: ``[N, ...]`` floating point, or codes ``[N]`` int64 in [0, K).
        y: the same, of the same N.
        bound: see above.
        critic: a module from ``x [n, Dx]`` and ``y [m, Dy]``, both as standardised, to the scores
            ``[n, m]`` of all pairs, of which a copy is trained; None makes a
            :class:`SeparableCritic`.
        hidden: widths of its networks.
        steps: optimiser steps.
        batch_size: samples of a step; all their pairs are scored.
        lr: learning rate at the start.
        clip: :math:`\tau` of SMILE, nats.
        held_out: share of the samples on which the estimate is made, in (0, 1).
        chunk_size: samples in a block; less memory, or a higher limit of InfoNCE.
        seed: of the shuffling, the batches and the weights.

    Raises:
        ShapeError: if x and y differ in N, or codes are not ``[N]``.
        ConfigurationError: if an option is out of range, or the samples are too few to split.
        NonFiniteError: if a sample is not finite, or training diverges.
    """
    _check_options(bound, steps, batch_size, lr, clip, held_out, chunk_size)
    _samples.check_samples(x, y)
    generator = torch.Generator().manual_seed(seed)
    test, valid, train = _samples.split(len(x), held_out, generator)
    inputs, targets = _samples.features(x, train), _samples.features(y.to(x.device), train)

    def rows(index: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[index.to(x.device)], targets[index.to(x.device)]

    made = _make_critic(inputs, targets, hidden, seed) if critic is None else copy.deepcopy(critic)
    network = made.to(x.device)
    batches = (
        rows(train[index]) for index in _samples.batches(len(train), batch_size, steps, generator)
    )
    with torch.enable_grad():
        _train(network, bound, batches, rows(valid), steps, lr)
    value, error = _evaluate(network, bound, *rows(test), clip, chunk_size)
    train_value, _ = _evaluate(network, bound, *rows(train[: len(test)]), clip, chunk_size)
    return InformationEstimate(value, error, train_value, len(test))


class SeparableCritic(nn.Module):
    r""":math:`f(x, y) = g(x) \cdot h(y) + a(x) + b(y)`: all pairs for the price of N."""

    def __init__(
        self, x_features: int, y_features: int, hidden: Sequence[int] = (128, 128), rank: int = 32
    ) -> None:
        super().__init__()
        self.scale = rank**-0.5
        self.x_network = MLP(x_features, rank + 1, hidden, activation=nn.SiLU)
        self.y_network = MLP(y_features, rank + 1, hidden, activation=nn.SiLU)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores of all pairs, ``[N, M]``, of ``x [N, Dx]`` and ``y [M, Dy]``."""
        g, h = self.x_network(x), self.y_network(y)
        return self.scale * g[:, 1:] @ h[:, 1:].T + g[:, :1] + h[:, 0]


def _make_critic(x: Tensor, y: Tensor, hidden: Sequence[int], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SeparableCritic(x.shape[-1], y.shape[-1], hidden)


def _train(
    critic: nn.Module,
    bound: Bound,
    batches: Iterator[tuple[Tensor, Tensor]],
    valid: tuple[Tensor, Tensor],
    steps: int,
    lr: float,
) -> None:
    """Train a critic, and leave it as it was when it validated best."""
    optimizer = torch.optim.Adam(critic.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average: Tensor | None = None
    best, state = -math.inf, copy.deepcopy(critic.state_dict())
    for step, (x, y) in enumerate(batches, 1):
        joint, marginal = functional.split_scores(critic(x, y))
        if bound == "mine":
            objective, average = functional.mine(joint, marginal, average)
        else:
            objective = _OBJECTIVES[bound](joint, marginal)
        optimizer.zero_grad()
        (-objective).backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // VALIDATIONS, 1) == 0 or step == steps:
            score = _validate(critic, bound, *valid, batch_size=len(x))
            if score > best:
                best, state = score, copy.deepcopy(critic.state_dict())
    critic.load_state_dict(state)


@torch.no_grad()
def _validate(critic: nn.Module, bound: Bound, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Return the mean objective over batches, nats, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for scores in _score_blocks(critic, x, y, batch_size):
        total += len(scores) * _OBJECTIVES[bound](*functional.split_scores(scores)).cpu()
    if bool(total.isnan()):
        raise NonFiniteError(
            f"expected a critic that learns, got scores that are not finite with bound={bound!r}; "
            "lower lr, or take 'js', 'smile' or 'info_nce'"
        )
    return float(total) / len(x)


def _score_blocks(critic: nn.Module, x: Tensor, y: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the scores of all pairs of at most ``size`` samples at a time, ``[n, n]`` float64."""
    blocks = math.ceil(len(x) / size)
    for some_x, some_y in zip(x.tensor_split(blocks), y.tensor_split(blocks), strict=True):
        yield critic(some_x, some_y).double()


@torch.no_grad()
def _evaluate(
    critic: nn.Module, bound: Bound, x: Tensor, y: Tensor, clip: float, chunk_size: int
) -> tuple[float, float]:
    """Return the estimate and its standard error, nats, in float64."""
    parts = [_block(scores, bound, clip) for scores in _score_blocks(critic, x, y, chunk_size)]
    joint, rows, columns = (torch.cat(part) for part in zip(*parts, strict=True))
    if bound == "info_nce":
        return float(joint.mean()), _standard_error(joint - columns.exp())
    if bound in ("nwj", "js"):
        value, constant = functional.nwj(joint, rows), torch.ones_like(joint[0])
    else:
        constant = functional.log_mean_exp(rows)
        value = joint.mean() - constant
    as_marginal = (rows - constant).exp() + (columns - constant).exp()
    return float(value), _standard_error(joint - as_marginal)


def _block(scores: Tensor, bound: Bound, clip: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's own score, and the log mean exp of its pairs as an x and as a y."""
    if bound == "info_nce":
        scores = scores - functional.log_mean_exp(scores, 1).unsqueeze(1)
        return scores.diagonal(), scores.diagonal(), functional.log_mean_exp(scores, 0)
    scores = scores + 1 if bound == "js" else scores
    joint, by_row = functional.split_scores(scores)
    by_column = functional.split_scores(scores.T)[1]
    if bound == "smile":
        by_row, by_column = by_row.clamp(-clip, clip), by_column.clamp(-clip, clip)
    return joint, functional.log_mean_exp(by_row, 1), functional.log_mean_exp(by_column, 1)


def _standard_error(influence: Tensor) -> float:
    """Return the error of a mean-like figure from what each sample adds to it, times N."""
    return float(influence.std() / math.sqrt(len(influence)))


def _check_options(
    bound: str,
    steps: int,
    batch_size: int,
    lr: float,
    clip: float,
    held_out: float,
    chunk_size: int,
) -> None:
    if bound not in get_args(Bound):
        raise ConfigurationError(f"expected a bound of {list(get_args(Bound))}, got {bound!r}")
    if steps < 1 or min(batch_size, chunk_size) < 3 or lr <= 0 or clip <= 0:
        raise ConfigurationError(
            "expected at least 1 step, batch_size and chunk_size of at least 3, positive lr and "
            f"clip, got {steps}, {batch_size}, {chunk_size}, {lr} and {clip}"
        )
    if not 0 < held_out < 1:
        raise ConfigurationError(
            f"expected held_out in (0, 1), got {held_out}; it is the share that is not trained on"
        )
