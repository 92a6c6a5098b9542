"""What run folders hold: each file read with its faults named, and the commands behind it."""

from __future__ import annotations

import csv
import io
import math
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from modereg.errors import CheckpointError
from modereg.files import read_json, read_text
from modereg.metrics import BehaviourMetrics
from modereg.recipes.config.text import CHOSEN, KINDS, RunConfig, fits, read_config
from modereg.recipes.runs import EDITED

__all__ = [
    "command",
    "commands",
    "read_curves",
    "read_figures",
    "read_seconds",
    "read_summary",
    "read_versions",
]

JUDGED = typing.get_type_hints(BehaviourMetrics)
"""What figures are, by name; entries of lists may be missing, as JSON has no NaN."""


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what a finished run of ``discover`` or ``finetune`` came to.

    Raises:
        CheckpointError: if ``summary.json`` is missing, cut short, or lacks a figure of the kind
            that a page shows.
    """
    path = Path(folder) / "summary.json"
    found = read_figures(path)
    if not fits(found.get("env_steps"), float):
        raise _damaged(path, f"env_steps {found.get('env_steps')!r}")
    return found


def read_figures(path: Path) -> dict[str, Any]:
    """Read figures: ``sampled`` and perhaps ``deterministic``, each as an evaluation has them.

    Raises:
        CheckpointError: if the file is missing, cut short, or lacks a figure.
    """
    found = read_json(path)
    if not isinstance(found, dict) or "sampled" not in found:
        raise _damaged(path, "none that were sampled")
    for way in ("sampled", "deterministic"):
        if way in found:
            _check_figures(path, way, found[way])
    return found


def _check_figures(path: Path, way: str, figures: Any) -> None:
    """Check the type of each figure, and that lists agree on the numbers of codes and modes."""
    if not isinstance(figures, dict):
        raise _damaged(path, f"{way} {type(figures).__name__}")
    for name, hint in JUDGED.items():
        if not fits(figures.get(name), hint):
            raise _damaged(path, f"{way}.{name} {_short(figures.get(name))}")
    for name in set(figures) - set(JUDGED):
        if isinstance(figures[name], float) and not math.isfinite(figures[name]):
            raise _damaged(path, f"{way}.{name} {figures[name]}")
    codes, modes = len(figures["code_shares"]), len(figures.get("mode_shares") or ())
    for name, rows in (("per_code_return", codes), ("per_code_success", codes)):
        if len(figures.get(name) or [0] * rows) != rows:
            raise _damaged(path, f"{way}.{name} of {len(figures[name])} codes, not {codes}")
    for name, columns in (("code_mode_table", modes), ("code_table", codes)):
        table = figures.get(name)
        if table is not None and [len(row) for row in table] != [columns] * codes:
            raise _damaged(path, f"{way}.{name} of another shape than [{codes}][{columns}]")


def read_curves(folder: Path) -> list[dict[str, float]]:
    """Read the rows of a run's ``curves.csv``; entries that are no numbers are left out.

    Raises:
        CheckpointError: if the file is missing or cut short, or a row lacks its environment steps.
    """
    path = Path(folder) / "curves.csv"
    text = read_text(path)
    try:
        rows = [_numbers(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (csv.Error, TypeError) as error:
        raise _damaged(path, str(error)) from None
    if not text.endswith("\n"):
        raise _damaged(path, "a table that is cut short")
    for line, row in enumerate(rows, 2):
        if "env_steps" not in row or not all(map(math.isfinite, row.values())):
            raise _damaged(path, f"line {line} without env_steps or with a number that is none")
    return rows


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text or "")
        except ValueError:
            continue
    return numbers


def read_seconds(folder: Path) -> float:
    """Read the wall-clock seconds of a run."""
    path = Path(folder) / "timing.json"
    found = read_json(path)
    if not isinstance(found, dict) or not fits(found.get("seconds"), float):
        raise _damaged(path, "no seconds")
    return float(found["seconds"])


def read_versions(folder: Path) -> dict[str, str]:
    """Read the versions of libraries that a run was made with, empty where nobody wrote them."""
    path = Path(folder) / "versions.json"
    found = read_json(path) if path.exists() else {"started": {}}
    if not fits(found, dict[str, dict[str, str]]) or "started" not in found:
        raise _damaged(path, "no versions")
    return found["started"]


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"expected {path} as a finished run leaves it, got {what}; run it again, or leave it out"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def command(config: RunConfig) -> str:
    """Return the command line of a configuration: what differs from the defaults, quoted.

    A learner or method of another kind than the default stands after the command, by its name.
    """
    name = next(name for name, kind in KINDS.items() if isinstance(config, kind))
    usual = _defaults(type(config))
    parts: dict[str, Any] = {option: getattr(config, option, None) for option in CHOSEN}
    chosen = [
        str(vars(type(part))["name"])
        for option, part in parts.items()
        if hasattr(part, "name") and type(part) is not type(usual[option])
    ]
    return shlex.join(["modereg", name, *chosen, *_options(config, usual, "--")])


def commands(folders: Sequence[Path]) -> list[str]:
    """Return the commands that lead to some runs, in order: base policy, stage 1, edits, each run.

    Those of a base policy or a stage 1 whose folder is gone are left out.

    Raises:
        ConfigurationError: if a folder is no run's.
    """
    found: list[str] = []
    for folder in folders:
        config = read_config(folder)
        base = Path(getattr(config, "base", "")).parent
        earlier = [base, Path(getattr(config, "start", None) or base)]
        for part in [*earlier, Path(folder)]:
            if (part / "config.yaml").exists():
                found.append(command(read_config(part)))
            if (part / EDITED).exists():
                found.append(str(read_figures(part / EDITED)["edited"]["command"]))
    return list(dict.fromkeys(found))


def _options(config: Any, usual: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the words of all options that differ, those of a part after the part's name."""
    for entry in fields(config):
        value, default = getattr(config, entry.name), usual[entry.name]
        option = f"{prefix}{entry.name.replace('_', '-')}"
        if is_dataclass(value):
            alike = type(value) is type(default)
            within = _values(default) if alike else _defaults(type(value))
            yield from _options(value, within, f"{option}.")
        elif isinstance(value, bool) and value != default:
            yield option if value else f"{prefix}no-{option.removeprefix(prefix)}"
        elif value != default:
            yield from (option, *_words(value))


def _values(config: Any) -> dict[str, Any]:
    return {entry.name: getattr(config, entry.name) for entry in fields(config)}


def _defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of options by name, ``MISSING`` for those that must be given."""
    return {
        entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory()
        for entry in fields(kind)
    }


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [str(word) for pair in value.items() for word in pair]
    return [str(word) for word in value] if isinstance(value, tuple) else [str(value)]
