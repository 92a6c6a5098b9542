"""Commands of modereg side by side, each in a process of its own that ends with this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["Command", "run_commands"]

AGAIN = 2
"""How often a process is started anew that a signal has ended."""

LOOKS, PATIENCE = 0.1, 30.0
"""Seconds after which one looks again which have ended, and after which one that was asked to end
is killed."""


class Command(NamedTuple):
    """What is run.

    Attributes:
        arguments: of ``modereg``.
        log: file that what it prints is added to.
        needs: names of those that must have succeeded before.
    """

    arguments: Sequence[str]
    log: Path
    needs: frozenset[str]


def run_commands(
    commands: Mapping[str, Command], processes: int, ended: Callable[[str, bool], None]
) -> None:
    """Run commands, so many at a time, with one thread each.

    Where one fails, those that need it are left out, and the others go on. One that a signal has
    ended, as where memory is short, is started again, twice at most: they must be such that go on
    then. An interruption ends all, and so does the end of this process, even by SIGKILL.

    Args:
        commands: by name; what is needed and is not among them is there already.
        processes: how many at a time.
        ended: called as ``ended(name, succeeded)`` for each, also for one that was left out.
    """
    waiting, lost, failed = dict(commands), Counter[str](), set[str]()
    with _processes() as running:
        while waiting or running:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                if code < 0 and lost[name] < AGAIN:
                    lost[name] += 1
                    waiting = {name: commands[name], **waiting}
                    continue
                failed |= {name} if code else set()
                ended(name, code == 0)
            for name, command in list(waiting.items()):
                if failed & command.needs:
                    failed.add(name)
                    del waiting[name]
                    ended(name, False)
                elif len(running) < processes and not command.needs & {*waiting, *running}:
                    running[name] = _start(waiting.pop(name))
            time.sleep(LOOKS)


@contextmanager
def _processes() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Give a dictionary of processes, and end those that are left in it."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(command: Command) -> subprocess.Popen[bytes]:
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "modereg.child", str(os.getpid()), *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
