"""The estimators by name, for configurations and checkpoints.

Third parties add theirs by entry points of the group ``modereg.estimators``, each a class that is
made as modereg's are: of a network, or the length of the features, and a prior. A class without an
entry point is called ``module:Class``.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from modereg.errors import ConfigurationError, MissingDependencyError
from modereg.estimators.base import RewardEstimator
from modereg.estimators.categorical import CategoricalMI
from modereg.estimators.continuous import GaussianMI, VonMisesFisherMI
from modereg.estimators.contrastive import ContrastiveMI
from modereg.estimators.network import NetworkEstimator
from modereg.estimators.wasserstein import LSD, METRA
from modereg.suggestions import with_suggestion

__all__ = ["ESTIMATOR_GROUP", "KINDS", "estimator_class", "estimator_kind"]

ESTIMATOR_GROUP = "modereg.estimators"
"""Entry-point group of estimators."""

KINDS: dict[str, Callable[..., NetworkEstimator]] = {
    "categorical": CategoricalMI,
    "contrastive": ContrastiveMI,
    "gaussian": GaussianMI,
    "lsd": LSD,
    "metra": METRA,
    "von_mises_fisher": VonMisesFisherMI,
}
"""Makes of modereg: each takes a network, or the length of the features, and a prior."""


def estimator_class(kind: str, *, may_import: bool = False) -> Callable[..., NetworkEstimator]:
    """Return what makes estimators of a kind.

    Args:
        kind: a name of :data:`KINDS` or of an entry point, or ``module:Class``.
        may_import: whether the module of ``module:Class`` may be imported, which runs it: True for
            what the user typed, False for what a file says. Without it the class is found only
            where its module has been imported before.

    Raises:
        ConfigurationError: if there is none of this name, or it names no
            :class:`~modereg.estimators.NetworkEstimator`.
        MissingDependencyError: if its module cannot be imported.
    """
    points = _entry_points()
    if kind in KINDS:
        return KINDS[kind]
    if kind in points:
        return _checked(kind, _imported(kind, points[kind].load))
    if ":" not in kind:
        names = sorted({*KINDS, *points})
        sentence = f"expected an estimator of {names} or module:Class, got {kind!r}"
        raise ConfigurationError(with_suggestion(sentence, kind, names))
    if not may_import and kind.partition(":")[0] not in sys.modules:
        raise ConfigurationError(
            f"expected an estimator whose module is imported, got {kind!r} from a file; import it "
            "first if you trust it"
        )
    return _checked(kind, _imported(kind, lambda: pkgutil.resolve_name(kind)))


def estimator_kind(estimator: RewardEstimator) -> str | None:
    """Return the name under which an estimator can be made again.

    None is for what no name leads to: a class within a function, or without a network.
    """
    made = type(estimator)
    for name, kind in KINDS.items():
        if made is kind:
            return name
    reference = f"{made.__module__}:{made.__qualname__}"
    for name, point in _entry_points().items():
        if point.value == reference:
            return name
    named = isinstance(estimator, NetworkEstimator) and "<locals>" not in reference
    return reference if named else None


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ESTIMATOR_GROUP)}


def _imported(kind: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError as error:
        raise MissingDependencyError(
            f"the estimator {kind!r} cannot be imported: {error}; install what it needs, or "
            "correct its name"
        ) from error
    except (AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"expected an estimator as module:Class, got {kind!r}: {error}"
        ) from error


def _checked(kind: str, found: Any) -> Callable[..., NetworkEstimator]:
    if not (isinstance(found, type) and issubclass(found, NetworkEstimator)):
        raise ConfigurationError(
            f"expected a class derived from NetworkEstimator under {kind!r}, got {found!r}"
        )
    return found
