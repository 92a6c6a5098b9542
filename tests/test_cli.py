from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modereg import cli
from modereg.cli import main
from modereg.recipes.config import DemoConfig, EvaluateConfig, PretrainConfig

COMMANDS = ("pretrain", "discover", "finetune", "evaluate", "demo", "inspect", "doctor")


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom modereg.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'torchrl', 'diffusers', 'gymnasium', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    before = time.process_time(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"
    for command in COMMANDS:
        assert command in done.stdout
    assert time.perf_counter() - before[1] < 10  # about .3 s on an idle machine, torch takes 4


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("pretrain", ["--method {diffusion,flow}", "--episodes", "--ema", "--task.name"]),
        ("discover", ["--method {cluster,variational}", "--num-codes", "--resume", "--std"]),
        ("finetune", ["--start", "--coef", "--discoverer {frozen,online}", "--ppo.kl-coef"]),
        ("evaluate", ["--run", "--episodes", "--task.options"]),
        ("demo", ["--pay-spread", "--wide-spread", "--jobs", "--env-steps"]),
        ("inspect", ["--base", "--noises", "--held-episodes", "--smoothing", "--task.name"]),
        ("doctor", ["--fix", "--yes", "--json"]),
    ],
)
def test_every_command_lists_its_options(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for option in options:
        assert option in shown


def test_arguments_become_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def run(config: object) -> dict:
        seen.append(config)
        return {}

    monkeypatch.setattr(cli, "_run", run)
    options = ["pay_spread", "0.5", "pay", "1", "on", "True"]
    assert main(["evaluate", "--run", "runs/a", "--task.options", *options]) == 0
    assert main(["pretrain", "--hidden", "8", "9", "--out", "here", "--log.no-progress"]) == 0
    assert main(["demo", "--wide-spread", "None"]) == 0
    judge, clone, demo = seen
    assert isinstance(judge, EvaluateConfig)
    assert judge.task.options == {"pay_spread": 0.5, "pay": 1, "on": True}
    assert isinstance(clone, PretrainConfig)
    assert (clone.hidden, clone.out, clone.log.progress) == ((8, 9), Path("here"), False)
    assert demo == DemoConfig(wide_spread=None)


def test_an_error_is_one_sentence_on_stderr(tmp_path: Path) -> None:
    """As installed, and with a module that lies in the user's folder."""
    (tmp_path / "mine.py").write_text("policy = None")
    command = [Path(sys.executable).with_name("modereg"), "evaluate", "--base", "mine:policies"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("modereg: The module 'mine' has no 'policies'.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evaluate --task.name task:avoit", "Did you mean 'avoid'?"),
        ("evaluate --task.name avoid", "Did you mean 'task:avoid'?"),
        ("evaluate --task.name gymnasium:NoSuchThing-v0", "does not know 'NoSuchThing-v0'"),
        ("evaluate --task.options colour red", "no option 'colour'"),
        ("evaluate --base tests.recipes.pendulum:nothing", "has no 'nothing'"),
        ("evaluate --base tests.recipes.conftest:read_rows_of", "has no 'read_rows_of'"),
        ("discover --start x", "Unrecognized options"),
        ("finetune --env-steps many", "many"),
    ],
)
def test_mistakes_are_explained(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = arguments.split()
    if given[0] != "evaluate":
        given += ["--out", str(tmp_path / "run")]
    try:
        code = main(given)
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert code in (1, 2)
    assert sentence in " ".join((shown.out + shown.err).split())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("finetune", "the run in runs/x is kept. Repeat the command with --resume to go on."),
        ("discover", "the run in runs/x is kept. Repeat the command with --resume to go on."),
        ("pretrain", "interrupted; repeat the command to go on."),
        ("demo", "interrupted; repeat the command to go on."),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    command: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(config: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert main([command, "--out", "runs/x"]) == 130
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.out == ""


def test_results_are_printed_as_json_without_long_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"sampled": {"success": 0.5, "table": [0] * 33, "shares": [0.5, 0.5]}}
    monkeypatch.setattr(cli, "_run", lambda config: result)
    assert main(["evaluate"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"sampled": {"success": 0.5, "shares": [0.5, 0.5]}}
