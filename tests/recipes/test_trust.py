"""What a run's files name is not run, unless the user says so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from modereg.cli import main
from modereg.errors import ConfigurationError
from modereg.recipes.config import (
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    TaskConfig,
    VariationalConfig,
    to_yaml,
)
from modereg.recipes.evaluate import evaluate

MARKING = """
from pathlib import Path
Path({marker!r}).touch()


def make(*args, **kwargs):
    Path({marker!r}).touch()
    return None
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that appears as soon as ``somewhere`` is imported from the working folder."""
    (tmp_path / "work").mkdir()
    path = tmp_path / "marker"
    (tmp_path / "work" / "somewhere.py").write_text(MARKING.format(marker=str(path)))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield path
    sys.modules.pop("somewhere", None)


NAMING = [
    {"base": "subprocess:getoutput"},
    {"base": "somewhere:make"},
    {"task": TaskConfig("somewhere:make")},
    {"task": TaskConfig("gymnasium:somewhere:Thing-v0")},
    {"base": "somewhere:make", "task": TaskConfig("somewhere:make", {"a": 1})},
]


def _run_folder(out: Path, tuned: Path, **changes: object) -> Path:
    """Copy a finished run and change what its file says."""
    out.mkdir()
    for path in tuned.rglob("*"):
        if path.is_file() and "logs" not in path.parts:
            (out / path.relative_to(tuned)).parent.mkdir(parents=True, exist_ok=True)
            (out / path.relative_to(tuned)).write_bytes(path.read_bytes())
    config = FinetuneConfig(out=out, **changes)
    (out / "config.yaml").write_text(to_yaml(config))
    return out


@pytest.mark.parametrize("changes", NAMING)
@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_code_that_a_run_names_is_not_run(
    command: str,
    changes: dict,
    tuned: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = _run_folder(marker.parent / "run", tuned, **changes)
    words = ["evaluate", "--run", str(out)] if command == "evaluate" else ["report", str(out)]
    assert main(words) == 1
    shown = capsys.readouterr().err
    assert "which is not run because a file says so; add --trust-code if you trust" in shown
    assert shown.count("\n") == 1
    assert not marker.exists()
    assert "somewhere" not in sys.modules


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_whoever_trusts_it_runs_it(
    command: str, tuned: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _run_folder(marker.parent / "run", tuned, base="somewhere:make")
    words = ["evaluate", "--run", str(out)] if command == "evaluate" else ["report", str(out)]
    assert main([*words, "--trust-code"]) == 1  # what it makes is no policy
    assert "must give a GenerativePolicy, got NoneType" in capsys.readouterr().err
    assert marker.exists()


def test_naming_it_again_is_trust_in_what_is_named_alone(tuned: Path, marker: Path) -> None:
    both = dict(base="subprocess:getoutput", task=TaskConfig("somewhere:make"))
    out = _run_folder(marker.parent / "run", tuned, **both)
    config = EvaluateConfig(run=str(out), episodes=8)
    with pytest.raises(ConfigurationError, match="code to import, 'subprocess:getoutput', which"):
        evaluate(replace(config, task=TaskConfig("task:gaussian_mixture")))
    with pytest.raises(ConfigurationError, match="code to import, 'somewhere:make', which"):
        evaluate(replace(config, base="runs/base"))
    assert not marker.exists()


def test_an_estimator_of_a_file_is_not_imported(tuned: Path, base: str, marker: Path) -> None:
    """Reading a run's options, and loading its adapter, imports no module that they name."""
    out = _run_folder(marker.parent / "run", tuned, base=base)
    method = VariationalConfig(estimator="somewhere:make")
    (out / "config.yaml").write_text(to_yaml(DiscoverConfig(base=base, method=method)))
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["method"]["estimator"] == "somewhere:make"
    task = TaskConfig("task:gaussian_mixture", num_envs=8)
    found = evaluate(EvaluateConfig(run=str(out), episodes=8, task=task))
    assert found["sampled"]["episodes"] == 8
    assert not marker.exists()
