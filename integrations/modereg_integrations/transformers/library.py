"""The transformers library, imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modereg.errors import MissingDependencyError

__all__ = ["library"]


def library() -> Any:
    """Return the module ``transformers``.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingDependencyError(
            "PI0Policy needs the transformers library, which is not installed; install it with "
            "'pip install modereg[vla]'"
        ) from error
