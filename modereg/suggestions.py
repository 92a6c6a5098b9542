"""What a wrong name or shape was meant to be: the end of an error's sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import prod
from typing import Any

__all__ = ["did_you_mean", "with_shape_suggestion", "with_suggestion"]


def did_you_mean(wrong: Any, known: Iterable[Any]) -> str:
    """Return ``" Did you mean 'x'?"``, or nothing where no known name is close.

    Letters count alike in both cases, ``-``, ``.`` and blanks as ``_``, and a name also by its last
    part alone: ``pose`` is close to ``("agent", "pose")``, ``PushT`` to ``gym_pusht/PushT-v0``.

    Args:
        wrong: a name, a nested key, or several of either in a list.
        known: the names or nested keys that there are.
    """
    names = list(dict.fromkeys(known))
    asked = wrong if isinstance(wrong, list) else [wrong]
    found = [(name, match) for name in asked if (match := _closest(name, names)) is not None]
    if not found:
        return ""
    if len(asked) == 1:
        return f" Did you mean {found[0][1]!r}?"
    return f" Did you mean {' and '.join(f'{match!r} for {name!r}' for name, match in found)}?"


def with_suggestion(sentence: str, wrong: Any, known: Iterable[Any]) -> str:
    """Return an error's sentence with :func:`did_you_mean` behind it, if there is anything near."""
    return _joined(sentence, did_you_mean(wrong, known))


def with_shape_suggestion(sentence: str, got: Sequence[int], expected: Sequence[int]) -> str:
    """Return an error's sentence, and what makes the one shape of the other, if that is obvious."""
    change = _change(tuple(got), tuple(expected))
    return _joined(sentence, f" Did you mean {change}?" if change else "")


def _joined(sentence: str, suggestion: str) -> str:
    return f"{sentence.rstrip('.')}.{suggestion}" if suggestion else sentence


def _closest(wrong: Any, known: Sequence[Any]) -> Any | None:
    spelled: dict[str, Any] = {}
    for name in known:
        for form in _forms(name):
            spelled.setdefault(form, name)
    for form in _forms(wrong):
        matches = get_close_matches(form, spelled, n=1)
        if matches and spelled[matches[0]] != wrong:
            return spelled[matches[0]]
    return None


def _forms(name: Any) -> list[str]:
    """Return how a name may be written: whole, then its last part without a version."""
    whole = "_".join(name) if isinstance(name, tuple) else str(name)
    last = name[-1] if isinstance(name, tuple) else re.sub(r"-v\d+$", "", whole.rpartition("/")[2])
    return list(dict.fromkeys(_plain(form) for form in (whole, last) if form))


def _plain(name: str) -> str:
    return name.lower().translate(str.maketrans("-. ", "___"))


def _change(got: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
    """Return the method call that turns a tensor of one shape into one of the other."""
    if prod(got) != prod(expected) or got == expected:
        return None
    if got[-2:] == expected[:-3:-1] and got[:-2] == expected[:-2]:
        return ".mT, the last two dimensions exchanged"
    for place, size in enumerate(expected):
        if size == 1 and expected[:place] + expected[place + 1 :] == got:
            return f".unsqueeze({place})"
    for place, size in enumerate(got):
        if size == 1 and got[:place] + got[place + 1 :] == expected:
            return f".squeeze({place})"
    return f".reshape{expected}" if len(got) != len(expected) else None
