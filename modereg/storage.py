"""States of runs in files, and digests of weights."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from modereg.errors import CheckpointError
from modereg.files import write_atomic

__all__ = ["fingerprint", "load_state", "save_state", "state_fingerprint", "uncompiled"]


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
    except OSError as error:
        raise CheckpointError(f"expected a readable file {path}: {error.strerror}") from None
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


def fingerprint(module: nn.Module) -> str:
    """Return a digest of a module's parameters and buffers: names, types, shapes and values.

    Two modules with equal state have equal fingerprints, on whatever device they are, compiled by
    ``torch.compile`` or not.
    """
    return state_fingerprint(module.state_dict())


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """Return the :func:`fingerprint` of a module that has this ``state_dict``."""
    digest = hashlib.sha256()
    named = {uncompiled(name): value for name, value in state.items()}
    for name, value in sorted(named.items()):
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def uncompiled(name: str) -> str:
    """Return the name of a parameter as it is without ``torch.compile``."""
    return name.replace("_orig_mod.", "")
