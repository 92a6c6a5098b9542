"""From the ``config.yaml`` of a run back to the command that was typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from modereg.errors import ConfigurationError
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, PretrainConfig, from_yaml

__all__ = ["command", "commands", "read_config"]

KINDS = {"finetune": FinetuneConfig, "discover": DiscoverConfig, "pretrain": PretrainConfig}


def read_config(folder: Path) -> DiscoverConfig | FinetuneConfig | PretrainConfig:
    """Read what a run was started with.

    Args:
        folder: run folder of ``pretrain``, ``discover`` or ``finetune``.

    Raises:
        ConfigurationError: if there is no ``config.yaml``, or it is of another kind.
    """
    path = Path(folder) / "config.yaml"
    if not path.exists():
        raise ConfigurationError(
            f"expected a run folder with config.yaml, got {folder} without one; name the --out of "
            "a run"
        )
    for kind in KINDS.values():
        try:
            return from_yaml(kind, path.read_text())
        except ConfigurationError:
            continue  # of another kind, or of none
    raise ConfigurationError(
        f"expected the options of {', '.join(KINDS)} in {path}, got others; name the --out of a run"
    )


def command(config: DiscoverConfig | FinetuneConfig | PretrainConfig) -> str:
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
