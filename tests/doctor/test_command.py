from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modereg.doctor.checks import Finding
from modereg.doctor.command import doctor, table
from modereg.recipes.config import DoctorConfig


@pytest.fixture
def checks(tmp_path: Path) -> Callable[[], list[Finding]]:
    """Checks of two files, one of them required, which a command makes."""

    def look(name: str, status: str, required: bool) -> Finding:
        path = tmp_path / name
        code = f"import pathlib; pathlib.Path({str(path)!r}).touch(); print('made')"
        command = (sys.executable, "-c", code)
        found = "there" if path.exists() else "no file"
        return Finding(name, "ok" if path.exists() else status, found, command, required=required)

    return lambda: [look("needed", "wrong", True), look("optional", "absent", False)]


def refuse(question: str) -> str:
    raise AssertionError(f"nothing should be asked, and this was: {question}")


def test_without_fix_it_only_looks(
    checks: Callable[[], list[Finding]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(DoctorConfig(yes=True), checks=checks, ask=refuse) == 1
    assert not list(tmp_path.iterdir())
    assert "!!  needed    no file" in capsys.readouterr().out


def test_yes_mends_faults_and_leaves_what_is_optional(
    checks: Callable[[], list[Finding]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(DoctorConfig(fix=True, yes=True), checks=checks, ask=refuse) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["needed"]
    assert "afterwards:\nok  needed    there\n -  optional  no file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "made", "status"),
    [
        (["y", "YES "], ["needed", "optional"], 0),
        (["", "y"], ["optional"], 1),
        (["n", "nonsense"], [], 1),
    ],
)
def test_each_command_is_asked_for(
    answers: list[str],
    made: list[str],
    status: int,
    checks: Callable[[], list[Finding]],
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return answers[len(asked) - 1]

    assert doctor(DoctorConfig(fix=True), checks=checks, ask=ask) == status
    assert sorted(path.name for path in tmp_path.iterdir()) == made
    assert ["needed" in asked[0], "optional" in asked[1], len(asked)] == [True, True, 2]


def test_where_nobody_answers_nothing_runs(
    checks: Callable[[], list[Finding]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(question: str) -> str:
        raise EOFError

    assert doctor(DoctorConfig(fix=True), checks=checks, ask=closed) == 1
    assert not list(tmp_path.iterdir())
    assert "--yes" in capsys.readouterr().err


def test_a_command_that_fails_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    fault = [Finding("x", "wrong", "broken", command, required=True)]
    assert doctor(DoctorConfig(fix=True, yes=True), checks=lambda: fault) == 1
    assert "failed with exit status 3" in capsys.readouterr().err


def test_json_is_all_of_stdout(
    checks: Callable[[], list[Finding]], capfd: pytest.CaptureFixture[str]
) -> None:
    config = DoctorConfig(fix=True, yes=True, json=True)
    assert doctor(config, checks=checks, ask=refuse) == 0
    shown = capfd.readouterr()
    rows = json.loads(shown.out)
    assert [(row["name"], row["status"]) for row in rows] == [
        ("needed", "ok"),
        ("optional", "absent"),
    ]
    assert rows[1]["mend"].startswith(sys.executable)
    assert shown.err == "made\n"


def test_a_fault_stands_above_what_mends_it() -> None:
    findings = [
        Finding("torch", "ok", "2.13.0", ("pip", "install", "torch")),
        Finding("[wandb]", "absent", "not installed", ("pip", "install", "modereg[wandb]")),
        Finding("gpu", "wrong", "asleep", advice="wake it"),
    ]
    assert table(findings).splitlines() == [
        "ok  torch    2.13.0",
        " -  [wandb]  not installed",
        "             -> pip install 'modereg[wandb]'",
        "!!  gpu      asleep",
        "             -> wake it",
    ]


def test_only_what_is_required_and_wrong_is_fatal() -> None:
    assert Finding("a", "wrong", "", required=True).fatal
    assert not Finding("a", "wrong", "").fatal
    assert not Finding("a", "ok", "", required=True).fatal
    assert not Finding("a", "absent", "", required=True).fatal


def test_no_findings_are_no_lines() -> None:
    assert table([]) == ""
