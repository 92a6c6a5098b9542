"""How far long work is, and how long it may still take.

A bar on a terminal and in a notebook; a line now and then where stderr is a file or a pipe, without
colours and without carriage returns.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

__all__ = ["Phase", "Progress", "counted_steps"]

FIRST_PAUSE, LAST_PAUSE, SHARE = 10.0, 300.0, 0.1
"""Seconds between two lines: a tenth of those that have passed, within these bounds."""


@dataclass
class Phase:
    """A part of long work.

    Attributes:
        name: what is done.
        total: how much there is to do, None if nobody knows.
        done: how much is done.
        first: how much was done when it began, in a run that goes on.
        began: when it began, seconds of :func:`time.perf_counter`.
        figures: the newest ones.
    """

    name: str
    total: int | None = None
    done: int = 0
    first: int = 0
    began: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the mean rate so far, None as long as there is none."""
        made = self.done - self.first
        if self.total is None or made <= 0:
            return None
        return self.seconds * max(self.total - self.done, 0) / made


class Progress:
    """Shows one phase after the other on stderr.

    As a context manager it closes what it shows, however that ends.

    Args:
        name: of the work, shown before each phase.
        shown: False says nothing and only keeps count.
    """

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self.name, self.shown = name, shown
        self.current = Phase("")
        self._display: _Bar | _Lines | None = None

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        """Begin a phase, which ends the one before."""
        self.close()
        self.current = Phase(name, total, done, done, time.perf_counter())
        if self.shown:
            title = ", ".join(part for part in (self.name, name) if part)
            self._display = (_Bar if _has_bar() else _Lines)(title, self.current)

    def update(self, done: int, total: int | None = None, **figures: float) -> None:
        """Say how much of the phase is done, with some figures; without one a phase begins."""
        if self.shown and self._display is None:
            self.phase("", total)
        phase = self.current
        phase.done, phase.total = done, phase.total if total is None else total
        phase.figures = figures or phase.figures
        if self._display is not None:
            self._display.update()

    def close(self) -> None:
        """End the phase, and leave its last state on a line of its own."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bar:
    """A bar that is drawn over and over: tqdm's, which has an estimate of the remaining time."""

    def __init__(self, title: str, phase: Phase) -> None:
        self.phase = phase
        self.bar: Any = _bar_class()(
            desc=title,
            total=phase.total,
            initial=phase.first,
            unit="",
            unit_scale=phase.total is not None and phase.total >= 100_000,
            dynamic_ncols=True,
            bar_format=None if phase.total is not None else "{desc} ...",
        )

    def update(self) -> None:
        self.bar.total = self.phase.total
        if self.phase.figures:
            self.bar.set_postfix(_shown(self.phase.figures), refresh=False)
        self.bar.update(self.phase.done - self.bar.n)

    def close(self) -> None:
        if self.phase.total is None:
            self.bar.bar_format = "{desc}: {elapsed} passed"
        self.bar.close()


class _Lines:
    """A line when something is known, another now and then, and one at the end."""

    def __init__(self, title: str, phase: Phase) -> None:
        self.title, self.phase = title, phase
        self._printed: int | None = None
        self._next = phase.began
        if phase.total is None:
            self._print(f"{title} ...")

    def update(self) -> None:
        phase, now = self.phase, time.perf_counter()
        if now >= self._next or phase.done == phase.total:
            self._next = now + min(max(SHARE * phase.seconds, FIRST_PAUSE), LAST_PAUSE)
            self._state()

    def close(self) -> None:
        if self._printed is not None:
            self._state()

    def _state(self) -> None:
        phase = self.phase
        if phase.total is None or self._printed == phase.done:
            return
        self._printed = phase.done
        share = phase.done / max(phase.total, 1)
        parts = [f"{self.title}: {phase.done}/{phase.total} ({share:.0%})"]
        parts.append(f"{_clock(phase.seconds)} passed")
        if phase.done < phase.total and phase.seconds_left is not None:
            parts.append(f"about {_clock(phase.seconds_left)} left")
        parts += [f"{name}={value}" for name, value in _shown(phase.figures).items()]
        self._print(", ".join(parts))

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


def _shown(figures: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in figures.items()}


def _has_bar() -> bool:
    """Whether a line can be drawn over: on a terminal that moves its cursor, or in a notebook."""
    return _in_notebook() or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _bar_class() -> Any:
    if not _in_notebook():
        return tqdm
    from tqdm.auto import tqdm as widget

    return widget


@contextmanager
def counted_steps(report: Callable[[int], None]) -> Iterator[None]:
    """Report how many gradient steps have been taken since, after each, by whatever optimizer.

    What learns needs to know nothing of who watches.
    """
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        report(done)

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()
