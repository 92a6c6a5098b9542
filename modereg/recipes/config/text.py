"""Configurations as YAML, out and in."""

from __future__ import annotations

import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from modereg.errors import ConfigurationError
from modereg.suggestions import with_suggestion

__all__ = ["from_yaml", "to_yaml"]


def to_yaml(config: Any) -> str:
    """Write a configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def from_yaml(kind: type, text: str) -> Any:
    """Read a configuration of a kind from YAML; what is absent keeps its default.

    Raises:
        ConfigurationError: if an entry is unknown, or the text is no YAML or no mapping.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"expected YAML, got a damaged text: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"expected a mapping of options, got {type(values).__name__}")
    return _build(kind, values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _build(kind: type, values: dict[str, Any]) -> Any:
    names = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        known = ", ".join(sorted(names))
        sentence = f"{kind.__name__} has no option {', '.join(unknown)}; it has {known}"
        raise ConfigurationError(with_suggestion(sentence, unknown, sorted(names)))
    hints = typing.get_type_hints(kind)
    return kind(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type, hint), value)
    if value is not None and (hint is Path or Path in typing.get_args(hint)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
