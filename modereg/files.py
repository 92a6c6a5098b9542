"""Files and folders that are whole or absent: atomic writes, and reads that say what is wrong."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modereg.errors import CheckpointError

__all__ = ["read_json", "read_text", "replace_folder", "write_atomic", "write_json"]

_LARGEST_TEXT = 64 << 20


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file such that an interruption leaves the old one or the new one, never a part.

    A temporary file in the same folder is written, synced and renamed over the path, and the
    folder is synced. What writers of this path that were killed left behind is removed.
    """
    data = data.encode() if isinstance(data, str) else data
    with _beside(path) as new:
        new.write_bytes(data)
        _sync(new)
        os.replace(new, path)
    _sync(path.parent)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``folder`` when the block ends.

    It stands beside ``folder`` and is synced, then the two are exchanged in one step: at each
    moment the old one or the new one is there, whole. (A file system that can't exchange gets two
    renames.) Where the block raises, the old one stays. What writers of this folder that were
    killed left behind is removed.

    Raises:
        CheckpointError: if ``folder`` is a file.
    """
    folder = folder.resolve()  # the folder is replaced, not a link to it
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"expected a folder to save to, got the file {folder}")
    with _beside(folder, is_folder=True) as new:
        yield new
        for path in (*new.rglob("*"), new):
            _sync(path)
        _swap(new, folder)
    _sync(folder.parent)


@contextmanager
def _beside(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yield a new file or folder beside a path; remove it at the end, and leftovers of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, lock = _create(path, is_folder)
    try:
        yield new
        _remove_leftovers(path)
    finally:
        _remove(new)
        os.close(lock)


def _create(path: Path, is_folder: bool) -> tuple[Path, int]:
    """Make a file or folder under a name of its own, locked so that nobody takes it as left over.

    Another writer may have removed it before it was locked; then a next one is made.
    """
    while True:
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        if is_folder:
            new.mkdir()
        else:
            new.touch(exist_ok=False)
        try:
            lock = os.open(new, os.O_RDONLY)
        except FileNotFoundError:
            continue
        _lock(lock, fcntl.LOCK_EX)
        if new.exists():
            return new, lock
        os.close(lock)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock a file; False if another holds it or the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    for name in filter(pattern.fullmatch, os.listdir(path.parent)):
        left = path.with_name(name)
        try:
            lock = os.open(left, os.O_RDONLY)
        except FileNotFoundError:  # its writer has just finished
            continue
        if _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _remove(left)
        os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(new: Path, folder: Path) -> None:
    """Put a new folder in the place of an old one; the old one then has the new one's name."""
    if not folder.exists():
        os.rename(new, folder)
    elif not _exchange(new, folder):
        old = new.with_suffix(".old")
        os.rename(folder, old)
        os.rename(new, folder)
        os.rename(old, new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step (Linux, macOS); False where the system can't."""
    library, paths = ctypes.CDLL(None, use_errno=True), [os.fsencode(first), os.fsencode(second)]
    if hasattr(library, "renameat2"):  # AT_FDCWD is -100, RENAME_EXCHANGE 2
        failed = library.renameat2(-100, paths[0], -100, paths[1], 2)
    elif hasattr(library, "renamex_np"):  # RENAME_SWAP is 2
        failed = library.renamex_np(*paths, 2)
    else:
        return False
    code = ctypes.get_errno() if failed else 0
    if code not in (0, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(second))
    return code == 0


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read a file of text.

    Raises:
        CheckpointError: if it is missing, no file that can be read, or no text.
    """
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise CheckpointError(f"expected a file below 64 MB at {path}, got a larger one")
        return path.read_text()
    except FileNotFoundError:
        raise CheckpointError(f"expected a file {path}, found none") from None
    except OSError as error:
        raise CheckpointError(f"expected a file {path}, got none ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"expected text in {path}, got a damaged file ({error})") from None


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # no JSON, thousands of digits or of brackets
        raise CheckpointError(f"expected JSON in {path}, got a damaged file ({error})") from None
