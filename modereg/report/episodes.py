"""The episodes that a page shows: those that were kept, else rolled out once and kept then."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensordict import TensorDictBase
from torch import nn

from modereg.errors import ConfigurationError
from modereg.paths import KeptPaths, Paths, load_paths, path_key, save_paths
from modereg.priors import CategoricalPrior
from modereg.recipes.evaluate import evaluate_policy, traced
from modereg.recipes.setup import Setup, discrete
from modereg.recipes.subspace import load_run
from modereg.report.entries import ReportEntry
from modereg.seeding import isolated_generators

__all__ = ["Archive", "home_of", "record_paths", "steering_of"]

Policy = Callable[[TensorDictBase], TensorDictBase]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Archive:
    """Where episodes of the base and of runs are kept, and how they are rolled out.

    Attributes:
        setup: task and base policy.
        options: what the task was made with.
        home: folder of the base's episodes; those of a run are in its own.
        seed: of episodes that are rolled out.
    """

    setup: Setup
    options: Mapping[str, Any]
    home: Path
    seed: int

    def base(
        self, judged: int, drawn: int, progress: Progress | None = None
    ) -> tuple[Mapping[str, Any], Paths]:
        """Return the figures of so many of the base's episodes, and the first of them."""
        key = self._key(None)
        kept = load_paths(self.home, key, seed=self.seed, judged=judged)
        if kept is None:
            found = _roll_out(self.setup, None, 1, judged, self.seed, progress=progress)
            kept = self._keep(self.home, key, *found)
        return kept.figures, kept.paths.first(drawn)

    def find(self, entry: ReportEntry) -> Paths | None:
        """Return a method's episodes of any evaluation that kept them."""
        key = self._key(steering_of(self.setup, entry)[1])
        kept = load_paths(entry.run_folder or self.home, key)
        return None if kept is None else kept.paths

    def roll_out(self, entry: ReportEntry, drawn: int, progress: Progress | None = None) -> Paths:
        """Return fresh episodes of a method, and keep them."""
        setup, steering, prior = steering_of(self.setup, entry)
        found = _roll_out(setup, steering, prior, drawn, self.seed, progress=progress)
        return self._keep(entry.run_folder or self.home, self._key(steering), *found).paths

    def _keep(
        self, folder: Path, key: Mapping[str, Any], figures: Mapping[str, Any], paths: Paths
    ) -> KeptPaths:
        if not folder.exists() or os.access(folder, os.W_OK):
            save_paths(folder, key, paths, figures, seed=self.seed)
        return KeptPaths(paths, figures, self.seed)

    def _key(self, steering: nn.Module | None) -> dict[str, Any]:
        setup = self.setup
        return path_key(setup.task, self.options, setup.num_envs, setup.fingerprint, steering)


def home_of(base: str, other: Path) -> Path:
    """Return where a base's episodes are kept: the run folder that made it, else another one."""
    made = Path(base).parent
    return made if (made / "config.yaml").is_file() and os.access(made, os.W_OK) else other


def steering_of(setup: Setup, entry: ReportEntry) -> tuple[Setup, Any, CategoricalPrior | int]:
    """Return where a method steers, what writes the noise, None for the base, and its prior.

    Raises:
        CheckpointError: if the adapter is damaged, or was made for another base policy.
        ConfigurationError: if it was made on another layout.
    """
    if entry.run_folder is None:
        return setup, None, 1
    adapter, setup = load_run(entry.run_folder, setup)
    return setup, adapter.steering, discrete(adapter.prior)


def record_paths(
    setup: Setup,
    steering: Policy | None,
    prior: CategoricalPrior | int,
    *,
    num_episodes: int = 400,
    seed: int,
) -> Paths:
    """Roll out whole episodes as an evaluation does, and keep every position on the way.

    Raises:
        ConfigurationError: if the task names another number of dimensions than its feature has.
    """
    return _roll_out(setup, steering, prior, num_episodes, seed)[1]


def _roll_out(
    setup: Setup,
    steering: Policy | None,
    prior: CategoricalPrior | int,
    number: int,
    seed: int,
    **options: Any,
) -> tuple[dict[str, Any], Paths]:
    prior = CategoricalPrior(prior) if isinstance(prior, int) else prior
    with isolated_generators():
        env = setup.steered(prior, 1.0)
    try:
        trace = traced(setup, env)
        figures, episodes = evaluate_policy(
            setup,
            env,
            steering,
            num_codes=prior.num_codes,
            episodes=number,
            seed=seed,
            **options,
        )
    finally:
        env.close(raise_if_closed=False)
    paths = trace.paths(episodes)
    _check_names(setup.task.feature_names, paths.positions.shape[-1])
    return figures, paths


def _check_names(names: tuple[str, ...] | None, width: int) -> None:
    if names is not None and len(names) != width:
        raise ConfigurationError(
            f"expected a name for each of the {width} kept dimensions of the first feature, got "
            f"{names}; change the task's feature_names"
        )
