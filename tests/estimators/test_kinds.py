"""Estimators by their names."""

from __future__ import annotations

import pytest

from modereg import estimators
from modereg.errors import ConfigurationError
from modereg.estimators import (
    KINDS,
    CategoricalMI,
    NetworkEstimator,
    estimator_class,
    estimator_kind,
)


def test_every_estimator_has_a_name() -> None:
    public = [getattr(estimators, name) for name in estimators.__all__]
    made = {kind for kind in public if isinstance(kind, type) and _can_be_made(kind)}
    assert set(KINDS.values()) == made
    for name, kind in KINDS.items():
        assert estimator_class(name) is kind
        assert estimator_kind(kind(6, 3)) == name


def _can_be_made(kind: type) -> bool:
    return issubclass(kind, NetworkEstimator) and not kind.__abstractmethods__


def test_one_of_the_user_s_has_none() -> None:
    class Mine(CategoricalMI):
        pass

    assert estimator_kind(Mine(6, 3)) is None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'categorical'.*'von_mises_fisher'.*got 'mine'"):
        estimator_class("mine")
