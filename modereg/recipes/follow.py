"""Run a recipe step by step, from Python or in a notebook."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch

from modereg.errors import ConfigurationError
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, PretrainConfig
from modereg.recipes.discover import discover_events
from modereg.recipes.events import Event
from modereg.recipes.finetune import finetune_events
from modereg.recipes.pretrain import pretrain_events
from modereg.recipes.summaries import Summary

__all__ = ["follow"]


def follow(config: PretrainConfig | DiscoverConfig | FinetuneConfig) -> Iterator[Event]:
    """Iterate over what happens in a run of ``pretrain``, ``discover`` or ``finetune``.

    Work is done between the events, so nothing happens while nobody asks for the next. Whoever
    stops asking (``break``, or :meth:`close` of the iterator) leaves a run that goes on where it
    was, with ``resume=True`` in the configuration, and ends with the same bytes as one that was
    never stopped. What is drawn from the random generators between two events changes nothing.

    Args:
        config: the run's options; ``log.progress=False`` leaves only the events.

    Returns:
        :class:`~modereg.recipes.events.Started` first,
        :class:`~modereg.recipes.events.Advanced` for each row of the curves,
        :class:`~modereg.recipes.events.Evaluated` after the rows that have an evaluation, and
        :class:`~modereg.recipes.events.Finished` with the summary at the end.

    Raises:
        ConfigurationError: if the configuration is of another kind; what the recipe itself raises
            comes with the first event.
    """
    return _guarded(_events(config))


def _events(
    config: PretrainConfig | DiscoverConfig | FinetuneConfig,
) -> Generator[Event, None, Summary]:
    if isinstance(config, PretrainConfig):
        return pretrain_events(config)
    if isinstance(config, DiscoverConfig):
        return discover_events(config)
    if isinstance(config, FinetuneConfig):
        return finetune_events(config)
    raise ConfigurationError(
        "expected a PretrainConfig, a DiscoverConfig or a FinetuneConfig, got "
        f"{type(config).__name__}, whose work has no steps to follow"
    )


def _guarded(events: Generator[Event, None, Summary]) -> Iterator[Event]:
    with closing(events):
        for event in events:
            with _kept_generators():
                yield event


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Leave the global random generators as they were."""
    numbers, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(legacy)
