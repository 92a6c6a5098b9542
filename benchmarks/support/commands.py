"""Commands of modereg as a user would type them, each in a process, and their CPU seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from modereg.files import read_json, write_json

__all__ = ["cpu_seconds", "run"]


def run(command: str, *flags: str, cwd: Path | None = None, **options: Any) -> None:
    """Print and run ``modereg COMMAND --name value ...`` on one thread, without its output.

    The CPU seconds of the process, its start included, are kept beside the folder ``out``; those of
    an interrupted run and of its continuation add up, and a finished run's stay.

    Args:
        command: of modereg, with the method where it has several.
        flags: options without a value, as they are typed.
        cwd: where it is typed; paths among the options are absolute then.
        options: options by name; ``__`` stands for a dot, ``_`` for a dash, and a tuple for several
            values. ``out`` is required.

    Raises:
        SystemExit: if the command fails.
    """
    arguments = command.split()
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name.replace('__', '.').replace('_', '-')}", *map(str, values)]
    arguments += flags
    print("$ modereg", *arguments, flush=True)
    folder = Path(options["out"])
    was_finished, before = (folder / "summary.json").exists(), _spent_by_children()
    try:
        finished = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "modereg.cli", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            cwd=cwd,
        )
    finally:
        if not was_finished:
            spent = cpu_seconds(folder) + _spent_by_children() - before
            write_json(_counter(folder), {"cpu_seconds": round(spent, 1)})
    if finished.returncode:
        raise SystemExit(finished.returncode)


def cpu_seconds(folder: Path) -> float:
    """Return the CPU seconds that :func:`run` has counted for a folder, 0 if there are none."""
    path = _counter(folder)
    return float(read_json(path)["cpu_seconds"]) if path.exists() else 0.0


def _counter(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cpu.json")


def _spent_by_children() -> float:
    times = os.times()
    return times.children_user + times.children_system
