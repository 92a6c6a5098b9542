"""How often the best of several noises would reach each behaviour, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.discovery.best_of import BestOf

__all__ = ["Reach", "predict_reach"]

RESAMPLES = 200
"""Bootstrap samples of the states."""


@dataclass(frozen=True)
class Reach:
    """What the base's noise can do for each code.

    Attributes:
        share: of the base's episodes that reach the code, with success, ``[K]``.
        reach: the same of the best of M noises at each decision, predicted, ``[K]``.
        error: standard error of the prediction over episodes and states, ``[K]``. It knows nothing
            of Q's own error.
        decodes: noises that were decoded.
    """

    share: Tensor
    reach: Tensor
    error: Tensor
    decodes: int


@torch.no_grad()
def predict_reach(
    best_of: BestOf,
    rows: TensorDictBase,
    outcomes: Tensor,
    episodes: Tensor,
    *,
    states: int = 12,
    max_decodes: int = 12_000,
) -> Reach:
    r"""Predict what :class:`BestOf` reaches, from episodes of the base and Q alone.

    Whoever plays best-of-M at decision t and the base elsewhere multiplies the chance of a code k
    by

    .. math::
        r_{k, t} = \frac{E_{s_t}[\max_w Q_k(s_t, f(s_t, w))]}{E_{s_t}[E_w Q_k(s_t, f(s_t, w))]},

    over the states that the base is in at that decision, those of ended episodes included, where
    nothing can be gained any more. The reach is :math:`\min(1, P_k \prod_t r_{k, t})`: exact for
    one decision, and for several as far as states that are as promising can be improved upon as
    much, whoever led there.

    The states are drawn from each outcome's episodes alike, so that rare codes have some, and
    weighted by one over the chance of being drawn, which Q knows.

    Args:
        best_of: whose reach it is; with its outcome model fitted to the episodes.
        rows: decisions of whole episodes, one behind the other, ``[n]``: what it reads.
        outcomes: of their episodes, ``[n]``: a code reached with success, or K.
        episodes: their numbers, ``[n]``.
        states: of each outcome and decision, at most.
        max_decodes: noises that are decoded, about: fewer states are drawn where it would be more.
    """
    num_outcomes = best_of.outcome_model.num_codes + 1
    decision = _decisions(episodes)
    affordable = max_decodes // (best_of.num_draws * num_outcomes * (int(decision.max()) + 1))
    sample = _Sample.draw(outcomes, decision, num_outcomes, max(min(states, affordable), 2))
    log_prob = best_of.draw(rows[sample.rows].select(*best_of.observed))[2]
    value, best = _mean_and_best(log_prob)
    reach = sample.reach(value, best)
    samples = torch.stack([sample.resampled().reach(value, best) for _ in range(RESAMPLES)])
    error = samples.clamp_max(1.0).std(0)
    decodes = log_prob[0, ..., 0].numel()
    return Reach(sample.share[:-1], reach.clamp_max(1.0)[:-1], error[:-1], decodes)


@dataclass(frozen=True)
class _Sample:
    """Decisions that were drawn, and what the episodes are like.

    Attributes:
        rows: which decisions, ``[S]``.
        decision: which of its episode each is, ``[S]``.
        drawn: share of each outcome's episodes under way whose state was drawn, ``[T, O]``.
        ended: episodes of each outcome that had ended before a decision, ``[T, O]``.
        share: of each outcome among the episodes, ``[O]``.
        episodes: number of episodes.
        times: how often each drawn decision counts, ``[S]``.
    """

    rows: Tensor
    decision: Tensor
    drawn: Tensor
    ended: Tensor
    share: Tensor
    episodes: int
    times: Tensor

    @staticmethod
    def draw(outcomes: Tensor, decision: Tensor, num_outcomes: int, states: int) -> _Sample:
        """Draw so many decisions of each outcome at each place in the episode, or all there are."""
        group = decision * num_outcomes + outcomes
        order = torch.randperm(len(group), device=group.device)
        order = order[group[order].argsort(stable=True)]
        under_way = torch.bincount(group, minlength=(int(decision.max()) + 1) * num_outcomes)
        starts = under_way.cumsum(0) - under_way
        rank = torch.arange(len(group), device=group.device) - starts[group[order]]
        rows = order[rank < states]
        under_way = under_way.view(-1, num_outcomes).double()
        return _Sample(
            rows,
            decision[rows],
            under_way.clamp_max(states) / under_way.clamp_min(1),
            under_way[:1] - under_way,
            under_way[0] / under_way[0].sum(),
            int(under_way[0].sum()),
            torch.ones_like(rows, dtype=torch.float64),
        )

    def resampled(self) -> _Sample:
        """Return a bootstrap sample of the states, and of the shares."""
        times = torch.poisson(self.times)
        error = (self.share * (1 - self.share) / self.episodes).sqrt()
        share = (self.share + error * torch.randn_like(self.share)).clamp_min(0.0)
        return replace(self, times=times, share=share)

    def reach(self, value: Tensor, best: Tensor) -> Tensor:
        """Return share times the gains at all decisions, not cut at 1, ``[O]``.

        Args:
            value: mean of Q over the noises at each drawn state, ``[S, O]``.
            best: Q of the noise that would be played for each outcome, ``[S, O]``.
        """
        chance = (value * self.drawn[self.decision]).sum(-1, keepdim=True)
        weight = self.times[:, None] / chance.clamp_min(1e-3)
        without, with_ = (
            self.ended.index_add(0, self.decision, weight * part) for part in (value, best)
        )
        gain = torch.where(without > 0, with_ / without.clamp_min(1e-12), 1.0)
        return self.share * gain.prod(0)


def _decisions(episodes: Tensor) -> Tensor:
    """Return which decision of its episode each is, ``[n]``, of whole episodes in turn."""
    lengths = episodes.unique_consecutive(return_counts=True)[1]
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(episodes), device=lengths.device) - starts.repeat_interleave(lengths)


def _mean_and_best(log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q's mean over the noises, and Q of the noise that is best for each outcome.

    Each member judges what the others choose: the noise that one member likes best, it likes too
    much.

    Args:
        log_prob: of each member and noise, ``[E, S, M, O]``.
    """
    probs = log_prob.double().exp()
    others = log_prob.sum(0) - log_prob if len(log_prob) > 1 else log_prob
    best = probs.gather(2, others.argmax(2, keepdim=True)).squeeze(2)
    return probs.mean((0, 2)), best.mean(0)
