"""What happens in a run, for those who follow it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from modereg.recipes.summaries import Summary
from modereg.rollouts import Episodes

__all__ = [
    "Advanced",
    "Evaluated",
    "Event",
    "Finished",
    "Planned",
    "Progressed",
    "Started",
    "Steps",
    "counted",
    "drain",
]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on (``resumed``) where an earlier process stopped."""

    folder: Path
    resumed: bool


@dataclass(frozen=True)
class Planned:
    """What the run will cost, as far as it can be known before.

    Attributes:
        env_steps: environment steps to come; at most so many where it may stop early.
        steps_per_second: at which the environment was seen to go under the base policy alone.
    """

    env_steps: int
    steps_per_second: float

    def __str__(self) -> str:
        """Return a line about it."""
        clock = tqdm.format_interval(self.env_steps / self.steps_per_second)
        return (
            f"about {self.env_steps / 1e6:.3g} M environment steps, {clock} at "
            f"{self.steps_per_second:.3g} steps/s of the base policy alone; learning comes on top"
        )


@dataclass(frozen=True)
class Progressed:
    """A part of the work is so far; nothing is saved yet.

    Attributes:
        phase: what is being done.
        done: how much of it.
        total: how much there is to do, None if nobody knows.
    """

    phase: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Advanced:
    """A row of the curves is complete: a batch of a learner, a refinement, some gradient steps.

    Where there is a ``state``, it is saved: whoever stops here loses nothing.

    Attributes:
        phase: what is being done.
        row: the figures, as they go to ``curves.csv``.
        done: how much of the phase is done: environment steps, refinements or gradient steps.
        total: how much there is to do, None if nobody knows.
        state: returns what a checkpoint holds; None closes with none.
        seconds_left: estimate for the rest of the phase, None without one.
    """

    phase: str
    row: Mapping[str, Any]
    done: int
    total: int | None
    state: Callable[[], dict[str, Any]] | None = field(default=None, repr=False, compare=False)
    seconds_left: float | None = None


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
        fresh: False where the folder held a finished run, and nothing was done.
    """

    folder: Path
    summary: Summary
    fresh: bool = True


Event = Started | Planned | Progressed | Advanced | Evaluated | Finished
"""Whatever :func:`~modereg.recipes.follow.follow` yields."""

Steps = Generator[Event, None, dict[str, Any]]
"""A recipe: yields what happens, returns its summary."""


def counted(phase: str, total: int, parts: Iterable[Episodes]) -> Generator[Event, None, Episodes]:
    """Go through parts of ``total`` episodes, telling how many there are, and join them."""
    yield Progressed(phase, 0, total)
    joined: list[Episodes] = []
    for part in parts:
        joined.append(part)
        yield Progressed(phase, sum(map(len, joined)), total)
    return Episodes.cat(joined)


def drain(
    events: Generator[Any, None, Result], progress: Callable[[int], None] | None = None
) -> Result:
    """Go through events to the end, telling how far they are; return what their generator does."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        if progress is not None and isinstance(event, Progressed):
            progress(event.done)
