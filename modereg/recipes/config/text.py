"""Configurations as YAML, out and in."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from modereg.balances.config import BALANCES
from modereg.errors import ConfigurationError
from modereg.files import read_text
from modereg.learners.config import learner_configs
from modereg.recipes.config.scratch import FromScratchConfig
from modereg.recipes.config.training import (
    METHODS,
    DiscoverConfig,
    FinetuneConfig,
    PretrainConfig,
)
from modereg.suggestions import with_suggestion

__all__ = ["CHOSEN", "KINDS", "RunConfig", "choices", "fits", "from_yaml", "read_config", "to_yaml"]

RunConfig = DiscoverConfig | FinetuneConfig | PretrainConfig | FromScratchConfig

KINDS: dict[str, type[Any]] = {
    "finetune": FinetuneConfig,
    "discover": DiscoverConfig,
    "pretrain": PretrainConfig,
    "from-scratch": FromScratchConfig,
}
"""The commands whose runs have a folder."""

CHOSEN = ("learner", "balance", "method")
"""Options that are one of several configurations, by its name."""


def to_yaml(config: Any) -> str:
    """Write a configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(_plain(config), sort_keys=False)


def from_yaml(kind: type, text: str) -> Any:
    """Read a configuration of a kind from YAML; what is absent keeps its default.

    Raises:
        ConfigurationError: if an entry is unknown or of another type, or the text is no YAML or no
            mapping.
    """
    return _build(kind, _values(text))


def _values(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"expected YAML, got a damaged text: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"expected a mapping of options, got {type(values).__name__}")
    return _of_before(values)


def read_config(folder: Path) -> RunConfig:
    """Read what a run was started with; nothing that it names is imported.

    Args:
        folder: run folder of ``pretrain``, ``discover`` or ``finetune``.

    Raises:
        ConfigurationError: if there is no ``config.yaml``, or it is of another kind, or an option
            is of another type.
        CheckpointError: if the file cannot be read.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_symlink() and not path.exists():
        raise ConfigurationError(
            f"expected a run folder with config.yaml, got {folder} without one; name the --out of "
            "a run"
        )
    try:
        values = _values(read_text(path))
        for kind in KINDS.values():
            if set(values) <= _names(kind):
                config: RunConfig = _build(kind, values, f" in {path}")
                return config
    except (RecursionError, TypeError, ValueError) as error:
        sentence = " ".join(str(error).split())
        at = "" if str(path) in sentence else f" (in {path})"
        raise ConfigurationError(sentence + at) from None
    raise ConfigurationError(
        f"expected the options of {', '.join(KINDS)} in {path}, got others; name the --out of a run"
    )


def _of_before(values: dict[str, Any]) -> dict[str, Any]:
    """Return options of a run of before there were balances, whose weight was ``coef``."""
    if "coef" not in values or "balance" in values:
        return values
    coef = values.pop("coef")
    return values | {"balance": {"name": "constant"} | ({} if coef is None else {"coef": coef})}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        kind: Any = type(value)
        chosen = {"name": kind.name} if hasattr(kind, "name") else {}  # one of several
        return chosen | {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _build(kind: type, values: dict[str, Any], where: str = "", within: str = "") -> Any:
    names = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        known = ", ".join(sorted(names))
        sentence = f"{kind.__name__} has no option {', '.join(unknown)}; it has {known}"
        raise ConfigurationError(with_suggestion(sentence, unknown, sorted(names)))
    hints = typing.get_type_hints(kind)
    made = {}
    for name, value in values.items():
        made[name] = _convert(name, hints[name], value, where, within)
        _check_type(within + name, made[name], hints[name], where)
    return kind(**made)


def _convert(name: str, hint: Any, value: Any, where: str, within: str) -> Any:
    if name in CHOSEN and (isinstance(value, dict) or name != "method"):
        return _choose(name, value, where)
    part = next((part for part in (hint, *typing.get_args(hint)) if is_dataclass(part)), None)
    if part is not None and isinstance(value, dict):
        return _build(
            typing.cast(type, part),
            {key: value[key] for key in value if key != "name"}
            if hasattr(part, "name") and "name" not in _names(part)
            else value,
            where,
            f"{within}{name}.",
        )
    if value is not None and (hint is Path or Path in typing.get_args(hint)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _names(kind: Any) -> set[str]:
    return {entry.name for entry in fields(kind)}


def choices(option: str) -> dict[str, type[Any]]:
    """Return the configurations of which an option of :data:`CHOSEN` is one, by name."""
    if option == "learner":
        return dict(learner_configs())
    return BALANCES if option == "balance" else METHODS


def _choose(option: str, values: Any, where: str) -> Any:
    """Build one of several configurations, which the entry ``name`` chooses."""
    known = choices(option)
    values = dict(values) if isinstance(values, dict) else {"name": str(values)}
    name = values.pop("name", None)
    if name not in known:
        sentence = f"expected the name of a {option}{where} of {sorted(known)}, got {name!r}"
        raise ConfigurationError(with_suggestion(sentence, name, sorted(known)))
    return _build(known[name], values, where, f"{option}.")


def _check_type(name: str, value: Any, hint: Any, where: str) -> None:
    if not fits(value, hint):
        text = repr(value)
        raise ConfigurationError(
            f"expected {name}{where} of the type that its command writes, got "
            f"{text if len(text) <= 40 else text[:37] + '...'}; correct it, or run the command "
            "again"
        )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; numbers are finite, and lists may lack some of them."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is dict:
        return isinstance(value, dict) and all(
            fits(entry, part) for pair in value.items() for entry, part in zip(pair, parts)
        )
    if kind is list:
        return isinstance(value, list) and all(v is None or fits(v, parts[0]) for v in value)
    if kind is tuple:
        inner = parts[:1] * len(value) if isinstance(value, tuple) and ... in parts else parts
        return (
            isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
        )
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float)
        return number and not isinstance(value, bool) and math.isfinite(value)
    return hint is Any or isinstance(value, hint)
