"""What run folders hold: each file read with its faults named, and the commands behind it."""

from __future__ import annotations

import csv
import io
import math
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from modereg.errors import CheckpointError, ConfigurationError
from modereg.metrics import BehaviourMetrics
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, PretrainConfig, from_yaml
from modereg.storage import read_json

__all__ = [
    "RunConfig",
    "command",
    "commands",
    "read_config",
    "read_curves",
    "read_figures",
    "read_seconds",
    "read_summary",
    "read_text",
    "read_versions",
]

KINDS = {"finetune": FinetuneConfig, "discover": DiscoverConfig, "pretrain": PretrainConfig}
RunConfig = DiscoverConfig | FinetuneConfig | PretrainConfig

JUDGED = typing.get_type_hints(BehaviourMetrics)
"""What figures are, by name; entries of lists may be missing, as JSON has no NaN."""


def read_text(path: Path) -> str:
    """Read a file of a run folder.

    Raises:
        CheckpointError: if it is missing, no file that can be read, or no text.
    """
    try:
        return path.read_text()
    except OSError as error:
        raise CheckpointError(f"expected a readable file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _damaged(path, f"no text ({error})") from None


def read_config(folder: Path) -> RunConfig:
    """Read what a run was started with.

    Args:
        folder: run folder of ``pretrain``, ``discover`` or ``finetune``.

    Raises:
        ConfigurationError: if there is no ``config.yaml``, or it is of another kind, or an option
            is of another type.
        CheckpointError: if the file cannot be read, or is cut short.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_symlink() and not path.exists():
        raise ConfigurationError(
            f"expected a run folder with config.yaml, got {folder} without one; name the --out of "
            "a run"
        )
    text = read_text(path)
    if not text.endswith("\n"):
        raise _damaged(path, "options that are cut short")
    for kind in KINDS.values():
        try:
            config = from_yaml(kind, text)
        except (ConfigurationError, RecursionError, TypeError, ValueError):
            continue  # of another kind, or of none
        _check_types(path, config)
        return config
    raise ConfigurationError(
        f"expected the options of {', '.join(KINDS)} in {path}, got others; name the --out of a run"
    )


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what a finished run of ``discover`` or ``finetune`` came to.

    Raises:
        CheckpointError: if ``summary.json`` is missing, cut short, or lacks a figure of the kind
            that a page shows.
    """
    path = Path(folder) / "summary.json"
    found = read_figures(path)
    if not _fits(found.get("env_steps"), float):
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
        if not _fits(figures.get(name), hint):
            raise _damaged(path, f"{way}.{name} {_short(figures.get(name))}")
    for name in set(figures) - set(JUDGED):
        if isinstance(figures[name], float) and not math.isfinite(figures[name]):
            raise _damaged(path, f"{way}.{name} {figures[name]}")
    codes, modes = len(figures["code_shares"]), len(figures.get("mode_shares") or ())
    for name, rows in (("per_code_return", codes), ("per_code_success", codes)):
        if len(figures.get(name) or [0] * rows) != rows:
            raise _damaged(path, f"{way}.{name} of {len(figures[name])} codes, not {codes}")
    table = figures.get("code_mode_table")
    if table is not None and [len(row) for row in table] != [modes] * codes:
        raise _damaged(path, f"{way}.code_mode_table of another shape than [{codes}][{modes}]")


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
    if not isinstance(found, dict) or not _fits(found.get("seconds"), float):
        raise _damaged(path, "no seconds")
    return float(found["seconds"])


def read_versions(folder: Path) -> dict[str, str]:
    """Read the versions of libraries that a run was made with, empty where nobody wrote them."""
    path = Path(folder) / "versions.json"
    found = read_json(path) if path.exists() else {}
    if not _fits(found, dict[str, str]):
        raise _damaged(path, "no versions")
    return found


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"expected {path} as a finished run leaves it, got {what}; run it again, or leave it out"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_types(path: Path, config: Any, within: str = "") -> None:
    hints = typing.get_type_hints(type(config))
    for entry in fields(config):
        name, value = within + entry.name, getattr(config, entry.name)
        if is_dataclass(hints[entry.name]) and is_dataclass(value):
            _check_types(path, value, f"{name}.")
        elif not _fits(value, hints[entry.name]):
            raise ConfigurationError(
                f"expected {name} in {path} of the type that its command writes, got "
                f"{_short(value)}; correct it, or run the command again"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; numbers are finite, and lists may lack some of them."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is dict:
        return isinstance(value, dict) and all(
            _fits(entry, part) for pair in value.items() for entry, part in zip(pair, parts)
        )
    if kind is list:
        return isinstance(value, list) and all(v is None or _fits(v, parts[0]) for v in value)
    if kind is tuple:
        inner = parts[:1] * len(value) if isinstance(value, tuple) and ... in parts else parts
        return (
            isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
        )
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float)
        return number and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)


def command(config: RunConfig) -> str:
    """Return the command line of a configuration: what differs from the defaults, quoted."""
    name = next(name for name, kind in KINDS.items() if isinstance(config, kind))
    return shlex.join(["modereg", name, *_options(config, type(config)(), "--")])


def commands(folders: Sequence[Path]) -> list[str]:
    """Return the commands that lead to some runs, in order: base policy, stage 1, each run.

    Those of a base policy or a stage 1 whose folder is gone are left out.

    Raises:
        ConfigurationError: if a folder is no run's.
    """
    found: list[str] = []
    for folder in folders:
        config = read_config(folder)
        base = Path(getattr(config, "base", "")).parent
        earlier = [base, Path(getattr(config, "start", None) or base)]
        there = [read_config(part) for part in earlier if (part / "config.yaml").exists()]
        found += [command(part) for part in [*there, config]]
    return list(dict.fromkeys(found))


def _options(config: Any, default: Any, prefix: str) -> Iterator[str]:
    """Yield the words of all options that differ, those of a part after the part's name."""
    for entry in fields(config):
        value, usual = getattr(config, entry.name), getattr(default, entry.name)
        option = f"{prefix}{entry.name.replace('_', '-')}"
        if is_dataclass(value):
            yield from _options(value, usual, f"{option}.")
        elif isinstance(value, bool) and value != usual:
            yield option if value else f"{prefix}no-{option.removeprefix(prefix)}"
        elif value != usual:
            yield from (option, *_words(value))


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [str(word) for pair in value.items() for word in pair]
    return [str(word) for word in value] if isinstance(value, tuple) else [str(value)]
