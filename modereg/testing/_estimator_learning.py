"""What an estimator learns on channels whose information is known."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior
from modereg.testing._estimator_subject import Channel, Subject
from modereg.testing._expect import expect

__all__ = ["Training", "check_learning"]

_ERROR = 0.25
"""How often the symmetric channel shows another code."""


@dataclass(frozen=True)
class Training:
    """How an estimator is trained, and the least share of the truth that it must then report."""

    steps: int
    lr: float
    rows: int
    least_share: float
    batch_size: int = 256

    def run(self, estimator: RewardEstimator, data: TensorDict) -> None:
        """Minimise the estimator's own loss on data ``[N]``."""
        parameters = [p for p in estimator.parameters() if p.requires_grad]
        if not parameters:
            return
        optimizer = torch.optim.Adam(parameters, self.lr)
        for _ in range(self.steps):
            rows = torch.randint(len(data), (min(self.batch_size, len(data)),), device=data.device)
            optimizer.zero_grad()
            estimator.loss(data[rows]).backward()
            optimizer.step()


def check_learning(subject: Subject, training: Training) -> None:
    """Train on channels and read on fresh draws of them."""
    discrete = isinstance(subject.prior, CategoricalPrior)
    for error in (0.0, _ERROR) if discrete else (0.0,):
        _check_channel(subject, training, error)
    if subject.make().is_lower_bound:
        _check_knows_nothing(subject, training)
        _check_independence(subject, training)
        if discrete:
            _check_names(subject, training)


def _fitted(subject: Subject, data: TensorDict) -> RewardEstimator:
    """Make an estimator whose features are scaled, where it can scale them."""
    estimator = subject.make()
    seen = subject.arrived(data)
    features = [seen.get(key).flatten(1) for key in subject.shapes]
    with suppress(ConfigurationError):  # for one that scales its input itself
        estimator.fit_features(torch.cat(features, -1))
    return estimator


def _trained(subject: Subject, training: Training, data: TensorDict) -> RewardEstimator:
    estimator = _fitted(subject, data)
    training.run(estimator, data)
    return estimator


@torch.no_grad()
def _read(subject: Subject, estimator: RewardEstimator, data: TensorDict) -> tuple[float, float]:
    """Return the bound on data ``[N]`` and three standard errors of it."""
    seen = subject.arrived(data)
    ratio, bound = estimator.log_ratio(seen), float(estimator.bound(seen))
    error = 3.0 * float(ratio.std()) / len(seen) ** 0.5 + 1e-3
    expect(
        abs(bound - float(ratio.mean())) <= error + 0.1 * estimator.scale,
        f"{subject.name}.bound is {bound:.4g} after training where the mean of log_ratio is "
        f"{float(ratio.mean()):.4g}",
    )
    return bound, error


def _shuffled(subject: Subject, data: TensorDict) -> TensorDict:
    """Give the rows codes that have nothing to do with their features."""
    return data.clone().set(subject.latent_key, subject.codes(len(data)))


def _check_channel(subject: Subject, training: Training, error: float) -> None:
    """Train on a known channel and check what is read on fresh draws of it."""
    channel = Channel(subject, error)
    if channel.truth <= 0.0:
        return
    estimator = _trained(subject, training, channel.draw(training.rows))
    fresh = channel.draw(training.rows)
    shuffled = _shuffled(subject, fresh)
    _check_association(subject, training, estimator, fresh, shuffled)
    if estimator.is_lower_bound:
        _check_bound(subject, training, channel, estimator, fresh, shuffled)


@torch.no_grad()
def _check_association(
    subject: Subject,
    training: Training,
    estimator: RewardEstimator,
    fresh: TensorDict,
    shuffled: TensorDict,
) -> None:
    """Check that codes seen with their own features are paid more than with those of others."""
    own, others = (estimator.log_ratio(subject.arrived(data)) for data in (fresh, shuffled))
    gain = own - others
    expect(
        float(gain.mean()) > 3.0 * float(gain.std()) / len(gain) ** 0.5,
        f"{subject.name} learned nothing: after {training.steps} steps log_ratio pays "
        f"{float(own.mean()):.4g} for a state's own code and {float(others.mean()):.4g} for a "
        "random one, though the features show the code",
    )


def _check_bound(
    subject: Subject,
    training: Training,
    channel: Channel,
    estimator: RewardEstimator,
    fresh: TensorDict,
    shuffled: TensorDict,
) -> None:
    """Check the bound: below the truth and near it, and not positive for unrelated codes."""
    bound, error = _read(subject, estimator, fresh)
    words = f"features that share {channel.truth:.4g} nats with the code"
    expect(
        bound <= channel.truth + error,
        f"{subject.name} reports {bound:.4g} nats (three standard errors: {error:.2g}) for "
        f"{words}, which is no lower bound",
    )
    wanted = training.least_share * min(channel.truth, estimator.upper_limit)
    expect(
        bound >= wanted,
        f"{subject.name} reports {bound:.4g} nats for {words} after {training.steps} steps, less "
        f"than the {wanted:.4g} that were asked for",
    )
    unrelated, error = _read(subject, estimator, shuffled)
    expect(
        unrelated <= error,
        f"{subject.name} reports {unrelated:.4g} nats after training on {words} for codes that "
        "have nothing to do with them",
    )


def _check_knows_nothing(subject: Subject, training: Training) -> None:
    """Check that features that are always the same are worth nothing, neither way."""
    channel = Channel(subject)
    data, fresh = channel.draw(training.rows), channel.draw(training.rows)
    for part in (data, fresh):
        for key in part.exclude(subject.latent_key).keys(True, True):
            part.set(key, torch.full_like(part.get(key), 0.5))
    estimator = subject.make()
    training.run(estimator, data)
    bound, error = _read(subject, estimator, fresh)
    expect(
        abs(bound) <= error + 0.05,
        f"{subject.name} trained on features that are always the same reports {bound:.4g} nats, "
        "where a q that knows nothing has to pay 0; is log p(z) subtracted once?",
    )


def _check_independence(subject: Subject, training: Training) -> None:
    """Check that a code that never touches the features has no positive bound on fresh data."""
    estimator, few = subject.make(), subject.draw(128)
    for words in ("before training", "after training on other data"):
        fresh = subject.draw(training.rows)
        bound, error = _read(subject, estimator, fresh)
        expect(
            bound <= error,
            f"{subject.name} reports {bound:.4g} nats (three standard errors: {error:.2g}) {words} "
            "for codes that have nothing to do with the features",
        )
        training.run(estimator, few)


def _check_names(subject: Subject, training: Training) -> None:
    """Check that codes of equal probability may change names, the estimator being retrained."""
    probs = subject.prior.probs  # type: ignore[attr-defined]
    names = torch.arange(len(probs))
    for value in probs.unique():
        alike = (probs == value).nonzero().squeeze(-1)
        names[alike] = alike.roll(1)
    if bool((names == torch.arange(len(names))).all()):
        return
    channel, bounds = Channel(subject, _ERROR), []
    for order in (None, names.to(subject.device)):
        torch.manual_seed(subject.seed)
        data, fresh = (channel.draw(training.rows, order) for _ in range(2))
        bounds.append(_read(subject, _trained(subject, training, data), fresh))
    (first, error), (second, other) = bounds
    expect(
        abs(first - second) <= error + other + 0.05,
        f"{subject.name} reports {first:.4g} nats, and {second:.4g} where the codes have other "
        "names",
    )
