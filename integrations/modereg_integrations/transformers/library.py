"""The transformers library, imported on use."""

from __future__ import annotations

from typing import Any

from modereg.lazy import optional

__all__ = ["library"]


def library() -> Any:
    """Return the module ``transformers``.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    return optional("transformers", "PI0Policy", "modereg[vla]")
