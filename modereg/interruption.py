"""Ctrl-C and SIGTERM: one way out of long work, and the command that takes it up again."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Terminated", "again", "interruptible"]

PAUSE = 1.0
"""Seconds after a signal in which another changes nothing: the work is being left already."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, from a cluster's scheduler for instance."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on Ctrl-C and :class:`Terminated` on SIGTERM, once a second.

    So an impatient second Ctrl-C does not disturb what the first one has begun. Only the main
    thread can receive signals; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -PAUSE

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PAUSE:
            last = now
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def again(arguments: Sequence[str], *, resume: bool) -> str:
    """Return the command line that takes up interrupted work, quoted for the shell.

    Args:
        arguments: those that the process was started with, without its name.
        resume: whether the command has ``--resume``, which then stands at the end.
    """
    words = [word for word in arguments if not resume or word not in ("--resume", "--no-resume")]
    return shlex.join([*_program(), *words, *(["--resume"] if resume else [])])


def _program() -> list[str]:
    """Return what was typed to start this process, as far as it can be known."""
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("modereg", "cli.py"):
        return [sys.executable, "-m", "modereg.cli"]
    found = shutil.which("modereg")
    if started.name != "modereg" or (found is not None and Path(found).samefile(started)):
        return ["modereg"]
    return [str(started)]
