"""What the values of an estimator keep: its limit, and its own posterior."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior
from modereg.testing._estimator_subject import Subject
from modereg.testing._expect import expect

__all__ = ["check_values"]


def check_values(subject: Subject, posterior: bool) -> None:
    """Check values for ordinary and wild features, before any training."""
    _check_limit(subject)
    if isinstance(subject.prior, CategoricalPrior):
        for scale in (1.0, 1e4):
            _check_codes(subject, subject.prior, posterior, scale)


@torch.no_grad()
def _check_limit(subject: Subject) -> None:
    for factor in (1.0, 30.0):
        estimator = subject.make()
        for parameter in estimator.parameters():
            parameter.mul_(factor)
        for scale in (1.0, 1e4):
            ratio = estimator.log_ratio(subject.draw(256, scale=scale))
            words = f"features of size {scale:g} and parameters {factor:g} times their size"
            expect(not bool(ratio.isnan().any()), f"{subject.name}.log_ratio is NaN for {words}")
            largest, limit = float(ratio.max()), estimator.upper_limit
            expect(
                largest <= limit + 1e-4 * (1.0 + abs(limit)),
                f"{subject.name}.log_ratio reaches {largest:.5g} for {words}, beyond its "
                f"upper_limit of {limit:.5g}",
            )
            expect(
                factor > 1.0 or bool(torch.isfinite(ratio).all()),
                f"{subject.name}.log_ratio is infinite for {words}",
            )


@torch.no_grad()
def _check_codes(subject: Subject, prior: CategoricalPrior, posterior: bool, scale: float) -> None:
    """Check log_prob: normalised, and of one mind with log_ratio."""
    estimator, data = subject.make(), subject.draw(32, scale=scale)
    log_prob = estimator.log_prob(data)
    total = log_prob.logsumexp(-1)
    expect(
        bool((total.abs() <= 1e-4).all()),
        f"{subject.name}.log_prob does not sum to one over the codes, but to "
        f"{float(total.exp().max()):.4g}",
    )
    support = prior.probs.nonzero().squeeze(-1).to(data.device)
    ratio, log_prior = _ratios(estimator, data, support), prior.log_prob(support)
    _check_order(subject, ratio, log_prob[..., support] - log_prior)
    difference = (ratio + log_prior - log_prob[..., support]).abs()
    expect(
        not posterior or bool((difference <= 1e-4 * (1.0 + log_prob[..., support].abs())).all()),
        f"{subject.name}.log_ratio + log p(z) is not the logarithm of a distribution over codes: "
        f"it differs from log_prob by up to {float(difference.max()):.4g} nats for features of "
        f"size {scale:g}",
    )


def _check_order(subject: Subject, ratio: Tensor, reference: Tensor) -> None:
    """Check that no two codes ``[*B, K']`` are ranked the other way round."""
    gap, other = (value.unsqueeze(-1) - value.unsqueeze(-2) for value in (ratio, reference))
    slack = 1e-3 * (1.0 + reference.abs().amax(-1)[..., None, None])
    expect(
        not bool(((gap > slack) & (other < -slack)).any()),
        f"{subject.name}.log_ratio and log_prob - log p(z) rank the codes of a row differently: "
        "the code with the largest one must be the code with the largest other",
    )


def _ratios(estimator: RewardEstimator, data: TensorDictBase, codes: Tensor) -> Tensor:
    """Return log_ratio of each of these codes in turn, ``[*B, K']``."""
    given = data.copy()
    ratios = [
        estimator.log_ratio(given.set(estimator.latent_key, code.expand(data.batch_size)))
        for code in codes
    ]
    return torch.stack(ratios, -1)
