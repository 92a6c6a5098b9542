"""Without transformers the adapter imports, and says what to install when it is used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modereg.errors import MissingDependencyError
from modereg_integrations.transformers import PI0Policy
from modereg_integrations.transformers.plugin import PLUGIN


@pytest.fixture(autouse=True)
def _without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)


def test_a_policy_names_the_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"modereg\[vla\]"):
        PI0Policy(object())


def test_a_folder_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "pi0"}')
    assert PLUGIN.can_load(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"modereg\[vla\]"):
        PLUGIN.load(tmp_path)
