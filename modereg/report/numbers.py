"""How numbers are written, in one place: on the page, in its pictures, and over several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modereg.metrics import mean_interval

__all__ = ["NONE", "known", "number", "over_runs", "percent", "rate", "span", "steps"]

NONE = "–"


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number in a format; what rounds to zero has no sign, and what is missing a dash."""
    return NONE if value is None else format(float(value), f"z{form}")


def percent(share: float) -> str:
    """Return a rate in percent; none below 1 is called 100."""
    value = 100 * share
    return f"{min(value, 99.9):.1f}\u2009%" if 99 < value < 100 else f"{value:.0f}\u2009%"


def rate(figures: Mapping[str, Any]) -> str:
    """Return the success with its standard error."""
    if figures.get("success") is None:
        return NONE
    return f"{number(figures['success'])} ± {number(figures['success_error'])}"


def steps(value: float | None) -> str:
    """Return environment steps, many of them in millions."""
    return number(value, ",.0f") if value is None or value < 1e5 else f"{value / 1e6:.2f} M"


def span(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return the lowest and the highest of some values, once if they are written alike."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def known(figures: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return a figure of several runs, of those that have it."""
    return [float(each[name]) for each in figures if each.get(name) is not None]


def over_runs(values: Sequence[float], form: str = ".3f") -> str:
    """Return the mean over runs: with each run's value in round brackets where they are few.

    From five runs on, its 95 % interval by Student's t stands in square brackets.
    """
    if not len(values):
        return NONE
    mean, ends = number(float(np.mean(values)), form), mean_interval(values)
    if ends is None:
        return f"{mean} ({', '.join(number(value, form) for value in values)})"
    return f"{mean} [{', '.join(number(value, form) for value in ends)}]"
