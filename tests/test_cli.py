from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from modereg import arguments, cli
from modereg.cli import main
from modereg.interruption import Terminated
from modereg.recipes.config import DemoConfig, EvaluateConfig, PretrainConfig

COMMANDS = tuple(arguments.COMMANDS)
HEAVY = {
    "IPython",
    "diffusers",
    "gymnasium",
    "matplotlib",
    "numpy",
    "rich",
    "scipy",
    "tensorboard",
    "tensordict",
    "torch",
    "torchrl",
    "tqdm",
}


def test_help_is_fast_as_it_loads_nothing_heavy() -> None:
    """The time itself, .1 to .2 s of a core, is measured and not asserted: machines differ."""
    code = (
        "import sys\nfrom modereg.cli import main\n"
        "for words in (['--help'], ['finetune', '--help'], ['finetune', '--coeff', '1'], ['x']):\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("pretrain", ["--method {diffusion,flow}", "--episodes", "--ema", "--device"]),
        ("discover", ["--num-codes", "--resume", "--method.std", "--no-page"]),
        (
            "finetune",
            ["--start", "--balance.", "--discoverer {frozen,online}", "--learner.clip"],
        ),
        ("evaluate", ["--run", "--episodes", "--trust-code", "--task.options"]),
        ("demo", ["--pay-spread", "--wide-spread", "--jobs", "--env-steps"]),
        ("inspect", ["--base", "--episodes", "--draws", "--task.name"]),
        ("modes", ["--name", "--merge", "--drop", "--favour", "--no-picture", "--out"]),
        ("export", ["--mode", "--out"]),
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
        ("finetune --balance.coeff 1", "--balance.coef FLOAT"),
        ("finetun --coef 1", "There is no command 'finetun', only pretrain, "),
        ("evaluat", "Did you mean 'evaluate'?"),
        ("finetune --env-steps many", "many"),
        ("modes runs/a", "expected --out, a new folder"),
        ("export runs/a --mode", "expected the name of a mode, got none"),
        ("export runs/a --mode 1", "without an adapter"),
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


RUN_IS_KEPT = "interrupted; the run in runs/x y is kept. To go on:\n"


@pytest.mark.parametrize(
    ("command", "sentence", "again"),
    [
        ("finetune", RUN_IS_KEPT, "modereg finetune --out 'runs/x y' --resume"),
        ("finetune --resume", RUN_IS_KEPT, "modereg finetune --out 'runs/x y' --resume"),
        ("discover --seed 3", RUN_IS_KEPT, "modereg discover --seed 3 --out 'runs/x y' --resume"),
        ("pretrain", RUN_IS_KEPT, "modereg pretrain --out 'runs/x y' --resume"),
        ("demo", RUN_IS_KEPT, "modereg demo --out 'runs/x y'"),
        ("evaluate", "interrupted; To begin again:\n", "modereg evaluate --out 'runs/x y'"),
    ],
)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_ctrl_c_and_sigterm_print_the_command_that_goes_on(
    command: str,
    sentence: str,
    again: str,
    kind: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(config: object) -> dict:
        raise kind

    monkeypatch.setattr(cli, "_run", interrupt)
    code = main([*command.split(), "--out", "runs/x y"])
    assert code == (130 if kind is KeyboardInterrupt else 143)
    shown = capsys.readouterr()
    assert shown.err == f"\nmodereg: {sentence}{again}\n"
    assert shown.out == ""


def test_results_are_printed_as_json_without_long_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {
        "sampled": {"success": 0.5, "list": [0] * 33, "table": [[0]], "shares": {"a": [0.5, 0.5]}}
    }
    monkeypatch.setattr(cli, "_run", lambda config: result)
    assert main(["evaluate"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"sampled": {"success": 0.5, "shares": {"a": [0.5, 0.5]}}}


COMPLETE = """
source "$1"
function=$(complete -p modereg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
$function
printf '%s ' "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_options_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["completion", "bash"])
    assert not end.value.code
    script = tmp_path / "modereg.bash"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", script], check=True)
    for line, answer in [
        ("modereg fin", "finetune"),
        ("modereg co", "completion"),
        ("modereg finetune --num-c", "--num-codes"),
        ("modereg finetune --discoverer f", "frozen"),
    ]:
        done = subprocess.run(
            ["bash", "-c", COMPLETE, "bash", script, *line.split()], capture_output=True, text=True
        )
        assert (done.stdout.strip(), done.stderr) == (answer, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_for_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["completion", shell])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "finetune" in shown
    assert {"zsh": "#compdef modereg", "fish": "function _tyro_modereg"}[shell] in shown


def test_no_colour_is_written_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(tyro._experimental_options, "ansi_codes", True)
    found = []
    for colour in ("", "1"):
        monkeypatch.setenv("NO_COLOR", colour)
        with pytest.raises(SystemExit):
            main(["finetune", "--coeff", "1"])
        shown = capsys.readouterr()
        found.append("\x1b[" in shown.out + shown.err)
    assert found == [True, False]
