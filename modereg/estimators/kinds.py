"""The estimators by name, for configurations and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from modereg.errors import ConfigurationError
from modereg.estimators.base import RewardEstimator
from modereg.estimators.categorical import CategoricalMI
from modereg.estimators.continuous import GaussianMI, VonMisesFisherMI
from modereg.estimators.contrastive import ContrastiveMI
from modereg.estimators.network import NetworkEstimator
from modereg.estimators.wasserstein import LSD, METRA
from modereg.suggestions import with_suggestion

__all__ = ["KINDS", "estimator_class", "estimator_kind"]

KINDS: dict[str, Callable[..., NetworkEstimator]] = {
    "categorical": CategoricalMI,
    "contrastive": ContrastiveMI,
    "gaussian": GaussianMI,
    "lsd": LSD,
    "metra": METRA,
    "von_mises_fisher": VonMisesFisherMI,
}
"""Makes of modereg: each takes a network, or the length of the features, and a prior."""


def estimator_class(kind: str) -> Callable[..., NetworkEstimator]:
    """Return what makes estimators of a kind.

    Raises:
        ConfigurationError: if there is none of this name.
    """
    if kind not in KINDS:
        sentence = f"expected an estimator of {sorted(KINDS)}, got {kind!r}"
        raise ConfigurationError(with_suggestion(sentence, kind, KINDS))
    return KINDS[kind]


def estimator_kind(estimator: RewardEstimator) -> str | None:
    """Return the name under which an estimator can be made again, None for one of the user's."""
    return next((name for name, kind in KINDS.items() if type(estimator) is kind), None)
