"""Files that are whole or absent: atomic writes, and reads that say what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from modereg.errors import CheckpointError

__all__ = ["fingerprint", "load_state", "read_json", "save_state", "write_atomic", "write_json"]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file such that an interruption leaves the old one or the new one, never a part.

    A temporary file in the same folder is written, synced and renamed over the path, and the
    folder is synced.
    """
    data = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(name, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save a nested dictionary of tensors, numbers, strings and lists atomically, with a digest."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    write_atomic(path, hashlib.sha256(body).digest() + body)


def load_state(path: Path) -> dict[str, Any]:
    """Load what :func:`save_state` saved, on the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is missing, cut short, altered, or holds other objects.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"expected a checkpoint at {path}, found none") from None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(
            f"expected an intact checkpoint at {path}, got one that is truncated, altered or "
            "foreign; delete it and start the run again"
        )
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise CheckpointError(
            f"expected a checkpoint of only tensors, numbers, strings and lists at {path}, got one "
            "that holds other objects; nothing of it was loaded"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"expected a file {path}, found none") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"expected JSON in {path}, got a damaged file ({error})") from None


def fingerprint(module: nn.Module) -> str:
    """Return a digest of a module's parameters and buffers: names, types, shapes and values.

    Two modules with equal state have equal fingerprints, on whatever device they are.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
