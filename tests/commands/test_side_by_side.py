"""Commands side by side; those of modereg's own that take no second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modereg.commands import side_by_side
from modereg.commands.side_by_side import Command, run_commands

WAIT = "import sys, time; from pathlib import Path; p = Path(sys.argv[1]); p.touch(); "


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python code stand for commands; which process runs it does not matter here."""
    popen = subprocess.Popen

    def start(words: list[str], **options: object) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", *words[4:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(side_by_side.subprocess, "Popen", start)


def command(folder: Path, *words: str, needs: set[str] | None = None) -> Command:
    return Command(words, folder / "log", frozenset(needs or ()))


@pytest.mark.usefixtures("told")
def test_each_after_what_it_needs_and_without_what_failed(tmp_path: Path) -> None:
    there = str(tmp_path / "made")
    commands = {
        "late": command(
            tmp_path, f"import os; assert os.path.exists({there!r})", needs={"early", "known"}
        ),
        "early": command(tmp_path, f"open({there!r}, 'w')"),
        "fails": command(tmp_path, "raise SystemExit('no luck')"),
        "left out": command(tmp_path, "pass", needs={"fails"}),
        "likewise": command(tmp_path, "pass", needs={"left out"}),
    }
    found: dict[str, bool] = {}
    run_commands(commands, 2, found.__setitem__)
    assert found == {
        "early": True, "late": True, "fails": False, "left out": False, "likewise": False
    }  # fmt: skip
    assert "no luck" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("told")
def test_what_a_signal_ended_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    kill = "import os, sys; n = len(os.listdir(sys.argv[1])); open(f'{sys.argv[1]}/{n}', 'w'); "
    kill += "n < int(sys.argv[2]) and os.kill(os.getpid(), 9)"
    found: dict[str, bool] = {}
    for name, times in (("mends itself", 2), ("does not", 9)):
        (tmp_path / name).mkdir()
        words = command(tmp_path, kill, str(tmp_path / name), str(times))
        run_commands({name: words}, 1, found.__setitem__)
    assert found == {"mends itself": True, "does not": False}
    assert len(list((tmp_path / "does not").iterdir())) == 3


@pytest.mark.usefixtures("told")
def test_an_interruption_ends_all(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stay = f"import os, time; print(os.getpid(), file=open({str(pids)!r}, 'a')); time.sleep(600)"

    def ended(name: str, succeeded: bool) -> None:
        while not pids.exists() or not pids.read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    commands = {"stays": command(tmp_path, stay), "ends": command(tmp_path, "pass")}
    with pytest.raises(KeyboardInterrupt):
        run_commands(commands, 2, ended)
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_a_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Even if that was killed, and had no time to end anything."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from modereg.commands.side_by_side import Command, run_commands\n"
        "words = 'finetune --base tests.recipes.tiny:heading --task.name task:gaussian_mixture '\n"
        "words += '--env-steps 100000000 --no-page --log.no-progress --out ' + sys.argv[1]\n"
        "log = Path(sys.argv[1] + '.log')\n"
        "run_commands({'one': Command(words.split(), log, frozenset())}, 1, print)\n"
    )
    run = tmp_path / "run"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(run)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=Path(__file__).parents[2],
    )
    try:
        _wait((run / "logs").exists)
        child = int(subprocess.check_output(["pgrep", "-P", str(parent.pid)]).split()[0])
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait(lambda: not Path(f"/proc/{child}").exists())
    finally:
        parent.kill()


def _wait(reached: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
