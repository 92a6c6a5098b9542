"""Folders of other libraries' policies: ours beside their files, and a digest over all of them.

``modereg_policy.json`` holds the options of modereg's class, the digest of each file that decides
what is decoded, and one over itself, so that no weight and no option changes unnoticed. A folder
that the other library saved has none, and is read as that library reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modereg import files
from modereg.errors import CheckpointError

__all__ = ["LARGEST", "OPTIONS", "check_sizes", "is_key", "open_folder", "sealed_folder"]

OPTIONS = "modereg_policy.json"
"""File of the options and digests."""

LARGEST = 100_000
"""Steps, layers and actions that a configuration may ask for: more are a damaged number."""

_FORMAT = 2
_INERT = {".log", ".md", ".png"}
_COUNTS = ("horizon", "chunk_size", "_layers", "_steps", "_timesteps", "_heads", "_dim", "_dims")


@contextmanager
def sealed_folder(folder: Path, options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of ``folder`` when it is whole.

    Args:
        folder: where the policy goes; a policy that was saved there is replaced.
        options: of modereg's class, JSON-able.

    Raises:
        CheckpointError: if there is something else than a saved policy.
    """
    foreign = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if foreign and not (folder / OPTIONS).is_file():
        raise CheckpointError(f"{folder} exists and is not empty, so it is left; save elsewhere")
    with files.replace_folder(folder) as new:
        yield new
        record = {"format": _FORMAT, "options": dict(options), "files": _digests(new)}
        files.write_json(new / OPTIONS, record | {"digest": _digest(record)})


def open_folder(folder: Path, kinds: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """Return the options of a folder whose files are those that were saved.

    Args:
        folder: what :func:`sealed_folder` wrote, or another library; that has no options.
        kinds: what each option may be; all must be there, and no other.

    Raises:
        CheckpointError: if a file or an option was changed, left out or added.
    """
    path = folder / OPTIONS
    if not path.exists():
        return {}
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise CheckpointError(
            f"expected {path} of format {_FORMAT}, got another; update modereg, or save the policy "
            "again with this one"
        )
    if record.pop("digest", None) != _digest(record):
        raise CheckpointError(f"{path} is damaged: its text is not what was saved; copy it again")
    _check_files(folder, record["files"])
    return _check_options(path, record["options"], kinds)


def _check_files(folder: Path, saved: Mapping[str, str]) -> None:
    there = _digests(folder)
    names = sorted(set(there) | set(saved))
    if wrong := [name for name in names if there.get(name) != saved.get(name)]:
        raise CheckpointError(
            f"{folder} is damaged: {', '.join(wrong[:4])} {'are' if wrong[1:] else 'is'} not what "
            f"was saved; copy the folder again, or remove {OPTIONS} and give its options if the "
            "files were changed on purpose"
        )


def _check_options(
    path: Path, options: Any, kinds: Mapping[str, Callable[[Any], bool]]
) -> dict[str, Any]:
    if not isinstance(options, dict) or options.keys() != kinds.keys():
        raise CheckpointError(f"expected options {sorted(kinds)} in {path}, got {options!r:.200}")
    for name, value in options.items():
        if not kinds[name](value):
            raise CheckpointError(f"{path} is damaged: {name!r} cannot be {value!r:.80}")
    return options


def _digests(folder: Path) -> dict[str, str]:
    """Digest each file that may decide what is decoded, by its path in the folder."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.relative_to(folder)
        hidden = place.parts[0].startswith(".")
        if not (hidden or place.name == OPTIONS or path.suffix in _INERT):
            with path.open("rb") as file:
                found[place.as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def check_sizes(path: Path, config: dict[str, Any]) -> None:
    """Refuse a configuration that asks for more than any policy has, before it is made.

    Raises:
        CheckpointError: if a number of steps, layers, heads or dimensions is beyond
            :data:`LARGEST`.
    """
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        for part in values:
            if isinstance(part, dict):
                check_sizes(path, part)
            elif name.endswith(_COUNTS) and isinstance(part, int | float) and part > LARGEST:
                raise CheckpointError(f"expected {name} of at most {LARGEST} in {path}, got {part}")


def is_key(value: Any) -> bool:
    """Whether JSON holds a nested key: a name, or a list of them."""
    parts = value if isinstance(value, list) else [value]
    return bool(parts) and all(isinstance(part, str) and part for part in parts)
