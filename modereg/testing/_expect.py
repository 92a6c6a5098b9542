"""How the checks complain."""

from __future__ import annotations

__all__ = ["expect"]


def expect(holds: bool, sentence: str) -> None:
    """Raise an ``AssertionError`` with this sentence unless the condition holds.

    Unlike the statement it also works under ``python -O``.
    """
    if not holds:
        raise AssertionError(sentence)
