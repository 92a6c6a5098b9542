"""Without LeRobot the adapter imports, and says how to install it when it is used."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from modereg.errors import MissingDependencyError
from modereg.plugins import resolve_policy
from modereg_integrations.lerobot import LeRobotPolicy


@pytest.fixture(autouse=True)
def _without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lerobot"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lerobot", None)


def test_a_policy_says_how_to_install_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"3\.12.*pip install modereg\[lerobot\]"):
        LeRobotPolicy(object(), dict, lambda chunk: chunk)


def test_so_does_the_command_line_on_a_folder(tmp_path: Path) -> None:
    config = {"type": "diffusion", "input_features": {}, "output_features": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingDependencyError, match=r"pip install modereg\[lerobot\]"):
        resolve_policy(str(tmp_path))


def test_an_error_of_another_library_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "lerobot" / "policies"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "common.py").write_text("import a_library_that_is_missing")
    monkeypatch.delitem(sys.modules, "lerobot")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing") as caught:
        LeRobotPolicy(object(), dict, lambda chunk: chunk)
    assert not isinstance(caught.value, MissingDependencyError)
    for name in ("lerobot", "lerobot.policies"):
        del sys.modules[name]
