from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from modereg import interruption
from modereg.interruption import Terminated, again, interruptible


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_leaves_the_work_and_a_second_one_does_not_disturb(
    number: signal.Signals, kind: type[BaseException]
) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with interruptible():
        with pytest.raises(kind) as caught:
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.type is kind
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_later_signals_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "PAUSE", 0.01)
    with interruptible():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    seen = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(
    "arguments",
    [["finetune", "--out", "it's here"], ["finetune", "--resume", "--out", "it's here"]],
)
def test_the_command_is_quoted_and_resumes_once(arguments: list[str]) -> None:
    line = again(arguments, resume=True)
    assert shlex.split(line) == ["modereg", "finetune", "--out", "it's here", "--resume"]


@pytest.mark.parametrize("words", [["demo", "--seed", "3"], ["report", "a", "--resume"]])
def test_other_commands_are_repeated_as_they_were(words: list[str]) -> None:
    assert shlex.split(again(words, resume=False)) == ["modereg", *words]


def test_the_program_is_the_one_that_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "modereg"
    started.write_text("#!/bin/sh\n")
    started.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(started)])
    assert again([], resume=False) == str(started)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert again([], resume=False) == "modereg"
    monkeypatch.setattr(sys, "argv", ["/x/modereg/cli.py"])
    assert again([], resume=False) == f"{sys.executable} -m modereg.cli"
