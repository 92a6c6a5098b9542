"""What happens in a run, for those who follow it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modereg.recipes.summaries import Summary

__all__ = ["Advanced", "Evaluated", "Event", "Finished", "Started", "drain"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on.

    Attributes:
        folder: its folder.
        resumed: whether it goes on where an earlier process stopped.
    """

    folder: Path
    resumed: bool


@dataclass(frozen=True)
class Advanced:
    """A row of the curves is complete: an iteration of PPO, a refinement, some gradient steps.

    It is saved: whoever stops here loses nothing.

    Attributes:
        phase: what is being done.
        row: the figures, as they go to ``curves.csv``.
        done: how much of the phase is done: environment steps, refinements or gradient steps.
        total: how much there is to do, None if nobody knows.
        seconds_left: estimate for the rest of the phase, None without one.
    """

    phase: str
    row: Mapping[str, Any]
    done: int
    total: int | None
    seconds_left: float | None


@dataclass(frozen=True)
class Evaluated:
    """The policy was judged on episodes of its own; comes after the row that has the figures.

    Attributes:
        env_steps: environment steps so far, stage 1 included.
        figures: of the evaluation, see :class:`~modereg.metrics.BehaviourMetrics`.
    """

    env_steps: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """The run is complete; this is the last event.

    Attributes:
        folder: its folder.
        summary: what the recipe returns.
    """

    folder: Path
    summary: Summary


Event = Started | Advanced | Evaluated | Finished
"""Whatever :func:`~modereg.recipes.follow.follow` yields."""


def drain(events: Generator[Event, None, Result]) -> Result:
    """Go through events to the end, and return what their generator returns."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value
