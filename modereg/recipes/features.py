"""The dimensions of the feature that a run looks at: chosen once, then read from the run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from modereg import keys
from modereg.discovery.relevance import course, left_out, undecided_dims
from modereg.recipes.config import TaskConfig
from modereg.recipes.setup import Setup
from modereg.rollouts import Episodes

__all__ = ["choose_features", "keep_features", "looking_at"]

NAME_THEM = (
    "name --task.feature-keys, or --task.feature-dims, to look at others; behaviours that are "
    "relative to one of them, such as above a goal, need a feature that says so, such as the "
    "difference, which the environment has to show"
)


def choose_features(setup: Setup, config: TaskConfig, episodes: Episodes) -> tuple[int, ...] | None:
    """Return the dimensions of the feature that the base decides, where nobody named a feature.

    Args:
        setup: task and base.
        config: what the user said of the task.
        episodes: of the base, with their chunks and histories.

    Returns:
        None where a feature was named, or all dimensions are decided.

    Warns:
        UserWarning: of the dimensions that are left out.
    """
    task = setup.task
    by_task = task.layout.feature_dims or task.layout.features != list(task.observation_keys)
    if by_task or config.feature_keys is not None:
        return None
    others = undecided_dims(episodes, setup.layout)
    if not others:
        return None
    width = course(episodes, setup.layout).shape[-1]
    warnings.warn(f"{left_out(others, setup.layout)} and are left out; {NAME_THEM}", stacklevel=2)
    return tuple(dim for dim in range(width) if dim not in others)


def keep_features(setup: Setup, episodes: Episodes, dims: Sequence[int] | None) -> Episodes:
    """Return episodes of which only these dimensions of the feature are kept, None for all."""
    if dims is None:
        return episodes
    kept = course(episodes, setup.layout)[..., list(dims)].flatten(1)
    return replace(episodes, final=episodes.final.clone(False).set(keys.HISTORY, kept))


def looking_at(setup: Setup, dims: Sequence[int] | None) -> Setup:
    """Return the setup with these dimensions of the feature alone, None for what it has.

    Pictures go on showing what the task shows.
    """
    if dims is None:
        return setup
    return replace(setup, layout=replace(setup.layout, feature_dims=tuple(dims)))
