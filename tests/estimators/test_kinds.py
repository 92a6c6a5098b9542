"""Estimators by their names: modereg's, those of entry points, and classes of the user's."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from modereg import estimators
from modereg.errors import ConfigurationError, MissingDependencyError
from modereg.estimators import (
    KINDS,
    CategoricalMI,
    NetworkEstimator,
    estimator_class,
    estimator_kind,
    kinds,
)

SOURCE = """
from modereg.estimators import CategoricalMI

class Mine(CategoricalMI):
    pass

number = 3
"""


class Here(CategoricalMI):
    pass


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that can be imported and is not."""
    (tmp_path / "somebodys_estimators.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_estimators", raising=False)
    return "somebodys_estimators"


def test_every_estimator_has_a_name() -> None:
    public = [getattr(estimators, name) for name in estimators.__all__]
    made = {kind for kind in public if isinstance(kind, type) and _can_be_made(kind)}
    assert set(KINDS.values()) == made
    for name, kind in KINDS.items():
        assert estimator_class(name) is kind
        assert estimator_kind(kind(6, 3)) == name


def _can_be_made(kind: type) -> bool:
    return issubclass(kind, NetworkEstimator) and not kind.__abstractmethods__


def test_one_of_the_user_s_is_found_by_its_module() -> None:
    kind = estimator_kind(Here(6, 3))
    assert kind == f"{__name__}:Here"
    assert estimator_class(kind) is Here


def test_one_within_a_function_has_no_name() -> None:
    class Mine(CategoricalMI):
        pass

    assert estimator_kind(Mine(6, 3)) is None


def test_what_a_file_names_is_not_imported(module: str) -> None:
    with pytest.raises(ConfigurationError, match="import it first if you trust it"):
        estimator_class(f"{module}:Mine")
    assert module not in sys.modules
    found = estimator_class(f"{module}:Mine", may_import=True)
    assert issubclass(found, CategoricalMI)
    assert estimator_class(f"{module}:Mine") is found


def test_an_entry_point_gives_a_name(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", f"{module}:Mine", kinds.ESTIMATOR_GROUP)
    monkeypatch.setattr(kinds, "entry_points", lambda group: [point])
    found = estimator_class("theirs")
    assert found.__name__ == "Mine"
    assert estimator_kind(found(6, 3)) == "theirs"


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        ("mine", ConfigurationError, r"'categorical'.*'von_mises_fisher'.*got 'mine'"),
        ("no_such_module:Mine", MissingDependencyError, "No module named 'no_such_module'"),
        ("somebodys_estimators:number", ConfigurationError, "derived from NetworkEstimator"),
        ("somebodys_estimators:Other", ConfigurationError, "has no attribute 'Other'"),
        ("subprocess:Popen", ConfigurationError, "derived from NetworkEstimator"),
        ("not a module:Mine", ConfigurationError, "expected an estimator as module:Class"),
    ],
)
def test_what_is_no_estimator_is_refused(
    kind: str, error: type[Exception], match: str, module: str
) -> None:
    with pytest.raises(error, match=match):
        estimator_class(kind, may_import=True)
