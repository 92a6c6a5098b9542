"""Run a recipe step by step: in its folder, with checkpoints, curves and progress around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from modereg.errors import ConfigurationError
from modereg.recipes.config import (
    DiscoverConfig,
    FinetuneConfig,
    FromScratchConfig,
    PretrainConfig,
)
from modereg.recipes.discover import discover_steps
from modereg.recipes.events import Advanced, Event, Finished, Planned, Progressed, Started, Steps
from modereg.recipes.finetune import finetune_steps
from modereg.recipes.from_scratch import from_scratch_steps
from modereg.recipes.pretrain import pretrain_steps
from modereg.recipes.progress import Progress
from modereg.recipes.runs import Run
from modereg.recipes.summaries import Summary
from modereg.seeding import (
    generator_state,
    isolated_generators,
    seed_generators,
    set_generator_state,
)

__all__ = ["discover", "finetune", "follow", "from_scratch", "pretrain"]

RECIPES: dict[type, Callable[..., Steps]] = {
    PretrainConfig: pretrain_steps,
    DiscoverConfig: discover_steps,
    FinetuneConfig: finetune_steps,
    FromScratchConfig: from_scratch_steps,
}
SHOWN = ("success", "entropy", "bound", "loss", "hits", "commanded")
"""Figures beside the progress."""


def pretrain(config: PretrainConfig) -> Summary:
    """Clone a task's expert; the policy lies in ``out/policy``. See :class:`PretrainConfig`."""
    return _last(config)


def discover(config: DiscoverConfig) -> Summary:
    """Run stage 1; the adapter lies in ``out/adapter``. See :class:`DiscoverConfig`."""
    return _last(config)


def finetune(config: FinetuneConfig) -> Summary:
    """Run stage 2; the adapter lies in ``out/adapter``. See :class:`FinetuneConfig`."""
    return _last(config)


def from_scratch(config: FromScratchConfig) -> Summary:
    """Learn from nothing; the policy lies in ``out/policy``. See :class:`FromScratchConfig`."""
    return _last(config)


def _last(config: Any) -> Summary:
    *_, finished = follow(config)
    return finished.summary  # type: ignore[union-attr]


def follow(
    config: PretrainConfig | DiscoverConfig | FinetuneConfig | FromScratchConfig,
) -> Iterator[Event]:
    """Iterate over what happens in a run of one of the recipes above.

    Work is done between the events, so nothing happens while nobody asks for the next. Whoever
    stops asking (``break``, or :meth:`close` of the iterator) leaves a run that goes on where it
    was last saved, with ``resume=True`` in the configuration, and ends with the same bytes as one
    that was never stopped. The global random generators are left as they are, and what is drawn
    from them between two events changes nothing.

    Args:
        config: the run's options; ``log.progress=False`` leaves only the events.

    Returns:
        :class:`~modereg.recipes.events.Started` first,
        :class:`~modereg.recipes.events.Planned` and :class:`~modereg.recipes.events.Progressed`,
        :class:`~modereg.recipes.events.Advanced` for each row of the curves,
        :class:`~modereg.recipes.events.Evaluated` after the rows that have an evaluation, and
        :class:`~modereg.recipes.events.Finished` with the summary at the end.

    Raises:
        ConfigurationError: if the configuration is of another kind; what the recipe itself raises
            comes with the first event.
    """
    if type(config) not in RECIPES:
        raise ConfigurationError(
            f"expected one of {', '.join(kind.__name__ for kind in RECIPES)}, got "
            f"{type(config).__name__}, whose work has no steps to follow"
        )
    return _with_generators_of_its_own(_run(config), config.seed)


def _run(config: Any) -> Iterator[Event]:
    with Run(config) as run, Progress(run.folder.name, shown=config.log.progress) as progress:
        yield Started(run.folder, run.resumed)
        if run.finished:
            progress.say("is finished already, and nothing was done")
            yield Finished(run.folder, run.summary, fresh=False)
            return
        with closing(RECIPES[type(config)](config, run.load())) as steps:
            summary = yield from _record(run, progress, steps)
        yield Finished(run.folder, run.finish(summary))


def _record(run: Run, progress: Progress, steps: Steps) -> Steps:
    """Log, save and show what happens, and pass it on."""
    while True:
        try:
            event = next(steps)
        except StopIteration as stop:
            return stop.value
        if isinstance(event, Planned):
            progress.say(str(event))
        elif isinstance(event, Progressed):
            progress.show(event.phase, event.done, event.total)
        elif isinstance(event, Advanced):
            run.log(dict(event.row))
            if event.state is not None:
                run.checkpoint(event.state())
            progress.show(event.phase, event.done, event.total, **_newest(run.rows))
            event = replace(event, seconds_left=progress.seconds_left)
        yield event


def _newest(rows: list[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SHOWN:
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        found |= {name: values[-1]} if values else {}
    return found


def _with_generators_of_its_own(events: Iterator[Event], seed: int) -> Iterator[Event]:
    """Go through events with the global generators seeded for them alone."""
    state: Any = None
    with closing(events):  # type: ignore[type-var]
        while True:
            with isolated_generators():
                if state is None:
                    seed_generators(seed)
                else:
                    set_generator_state(state)
                event = next(events, None)
                state = generator_state()
            if event is None:
                return
            yield event
