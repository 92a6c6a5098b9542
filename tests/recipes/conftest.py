"""A tiny base policy, cloned once, and the options of runs that take a second or two on it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modereg.learners.config import PPOConfig
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    FinetuneConfig,
    GuidedConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
    VariationalConfig,
)
from modereg.recipes.follow import discover, finetune, pretrain

TASK = TaskConfig("task:gaussian_mixture", num_envs=64)
QUIET = LogConfig(progress=False, tensorboard=False)
BATCH_STEPS = 64 * 24
"""At most so many environment steps in an iteration of PPO: 64 environments, 6 chunks of 4."""


def pretrain_config(out: Path, **changes: Any) -> PretrainConfig:
    """Return the configuration of the tiny cloning."""
    tiny = PretrainConfig(
        out=out, task=TASK, episodes=100, hidden=(64, 64), steps=250, batch=256, ema=0.98,
        inference_steps=3, log=QUIET,
    )  # fmt: skip
    return replace(tiny, **changes)


def clustering(**changes: Any) -> ClusterConfig:
    """Return the options of a tiny clustering."""
    tiny = ClusterConfig(
        episodes=768, imitation_steps=150, refinements=2, refine_episodes=256, refine_steps=40
    )
    return replace(tiny, **changes)


def guiding(**changes: Any) -> GuidedConfig:
    """Return the options of a tiny guided discovery."""
    tiny = GuidedConfig(
        episodes=512, refinements=2, refine_episodes=128, outcome_steps=100, guide_steps=100,
        student_steps=100,
    )  # fmt: skip
    return replace(tiny, **changes)


def by_reward(**changes: Any) -> VariationalConfig:
    """Return the options of a tiny discovery by reinforcement learning."""
    return replace(VariationalConfig(iterations=3), **changes)


def discover_config(base: str, out: Path, **changes: Any) -> DiscoverConfig:
    """Return the configuration of a tiny stage 1."""
    tiny = DiscoverConfig(
        base=base, out=out, task=TASK, method=clustering(), hidden=(64, 64), final_episodes=256,
        log=QUIET,
    )  # fmt: skip
    return replace(tiny, **changes)


def finetune_config(base: str, out: Path, env_steps: int, **changes: Any) -> FinetuneConfig:
    """Return the configuration of a tiny stage 2."""
    tiny = FinetuneConfig(
        base=base, out=out, task=TASK, env_steps=env_steps, eval_every=2, eval_episodes=64,
        final_episodes=128, hidden=(32, 32), std=0.4, log=QUIET, learner=PPOConfig(epochs=2),
    )  # fmt: skip
    return replace(tiny, **changes)


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the tiny cloning."""
    out = tmp_path_factory.mktemp("base") / "run"
    pretrain(pretrain_config(out, record=True))
    return out


@pytest.fixture(scope="session")
def base(cloned: Path) -> str:
    """Folder of the tiny base policy."""
    return str(cloned / "policy")


@pytest.fixture(scope="session")
def clusters(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of stage 1 by clustering."""
    out = tmp_path_factory.mktemp("clusters") / "run"
    method = clustering(target=1.0)
    discover(discover_config(base, out, method=method, log=replace(QUIET, tensorboard=True)))
    return out


@pytest.fixture(scope="session")
def guided(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of guided stage 1."""
    out = tmp_path_factory.mktemp("guided") / "run"
    discover(discover_config(base, out, method=guiding(target=1.0), num_codes=4))
    return out


@pytest.fixture(scope="session")
def variational(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of stage 1 by reinforcement learning."""
    out = tmp_path_factory.mktemp("variational") / "run"
    discover(discover_config(base, out, method=by_reward(), num_codes=5))
    return out


@pytest.fixture(scope="session")
def tuned(base: str, clusters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of stage 2, four iterations on the clusters."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    start = read_summary(clusters)["env_steps"]
    log = replace(QUIET, tensorboard=True)
    finetune(finetune_config(base, out, start + 4 * 1000, start=str(clusters), log=log))
    return out


def read_summary(folder: Path) -> dict[str, Any]:
    """Read a run's summary."""
    return json.loads((folder / "summary.json").read_text())


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Read a run's curves; empty cells are left out."""
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value} for row in rows]
