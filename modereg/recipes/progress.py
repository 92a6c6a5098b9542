"""How far long work is: tqdm's bars on a terminal and in a notebook, lines in a file or a pipe."""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["Progress"]

PAUSE = 15.0
"""Least seconds between two lines of a phase where a line cannot be drawn over."""


class _Lines:
    """Turns tqdm's redrawn line into lines of their own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self.stream.write(line + "\n")

    def flush(self) -> None:
        self.stream.flush()


class Progress:
    """Shows one phase after the other on stderr; as a context manager it closes what it shows.

    Args:
        name: of the work, shown before each phase.
        shown: False says nothing and only keeps count.
    """

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self.name, self.shown = name, shown
        self.current, self._bar = "", tqdm(disable=True)
        self._began, self._first, self._done = 0.0, 0, 0
        self._total: int | None = None

    def phase(self, phase: str, total: int | None = None, done: int = 0) -> None:
        """Begin a phase, which ends the one before; a resumed one with ``done`` of it made."""
        self.close()
        drawn = _in_notebook() or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
        self.current = phase
        self._began, self._first, self._done = time.monotonic(), done, done
        self._total = total
        self._bar = _bar_class()(
            desc=", ".join(part for part in (self.name, phase) if part),
            total=total,
            initial=done,
            disable=not self.shown,
            unit="",
            unit_scale=total is not None and total >= 100_000,
            bar_format=None if total else "{desc}: {elapsed} passed",
            **({"dynamic_ncols": True} if drawn else _in_lines()),
        )

    def show(self, phase: str, done: int, total: int | None = None, **figures: float) -> None:
        """Say how much of a phase is done, which begins if it is another than the last."""
        if phase != self.current:
            self.phase(phase, total, done)
        self.update(done, total, **figures)

    def update(self, done: int, total: int | None = None, **figures: float) -> None:
        """Say how much of the phase is done, with some figures beside it."""
        self._done, self._total = done, self._total if total is None else total
        self._bar.total = self._total
        if figures:
            shown = {name: f"{value:.3g}" for name, value in figures.items()}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Print a line, where anything is shown."""
        if self.shown:
            tqdm.write(f"{self.name}: {line}", file=sys.stderr)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest of the phase takes at the mean rate so far, None without one."""
        made = self._done - self._first
        if not self._total or made <= 0:
            return None
        return (time.monotonic() - self._began) * max(self._total - self._done, 0) / made

    def close(self) -> None:
        """End the phase, and leave its last state on a line of its own."""
        self._bar.close()
        self.current = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_lines() -> dict[str, Any]:
    return {"file": _Lines(sys.stderr), "mininterval": PAUSE, "maxinterval": 10 * PAUSE, "ncols": 0}


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _bar_class() -> Any:
    """Return tqdm's class, the widget where there is one to draw it."""
    if not _in_notebook() or find_spec("ipywidgets") is None:
        return tqdm
    from tqdm.notebook import tqdm as widget

    return widget
