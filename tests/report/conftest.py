"""Real run folders without training: an adapter that steers as the base does, and its figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg import keys, plugins
from modereg.checkpoints import Adapter, save_adapter
from modereg.estimators import CategoricalMI
from modereg.policies import as_generative_policy
from modereg.priors import CategoricalPrior
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import Setup
from modereg.report import ReportEntry
from modereg.wrapping import make_steering, observation_size
from tests.report.pictured import pictured_setup, pictured_task, setup_of

NUM_CODES = 3
VERSIONS = {"modereg": "0.1.0", "torch": "2.13"}


def make_setup(name: str, num_envs: int, shape: tuple[int, int], drift: list[float]) -> Setup:
    """Return a task with a base policy that drifts and follows its noise a little."""
    task = plugins.resolve_task(name, **({"max_steps": 22} if "gym" in name else {}))
    base = as_generative_policy(
        lambda noise, observation: torch.tensor(drift) + 0.006 * noise,
        in_keys=[keys.OBSERVATION],
        noise_shape=shape,
        chunk_shape=shape,
    )
    return setup_of(task, base, "a <base>", num_envs)


def write_run(setup: Setup, folder: Path, start: Path | None = None) -> Path:
    """Write what ``discover`` and ``finetune`` leave behind."""
    prior = CategoricalPrior(NUM_CODES)
    env = setup.steered(prior, 1.0)
    torch.manual_seed(0)
    steering = make_steering(env, setup.base, prior, hidden=(8,))
    estimator = CategoricalMI(observation_size(env, [keys.HISTORY]), prior)
    about = (setup.layout, setup.reference, setup.fingerprint, {"env_steps": 900})
    save_adapter(folder / "adapter", Adapter(steering, estimator, prior, *about))
    figures, _ = evaluate_policy(
        setup, env, steering, num_codes=NUM_CODES, episodes=48, seed=1, estimator=estimator
    )
    env_steps = 1000 if start is None else 3000
    summary = {"env_steps": env_steps, "sampled": figures}
    if start is not None:
        summary["deterministic"] = figures
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "versions.json").write_text(json.dumps({"started": VERSIONS}))
    (folder / "timing.json").write_text(json.dumps({"seconds": 20.0}))
    kind = "method: {name: cluster}" if start is None else f"start: {start}"
    (folder / "config.yaml").write_text(f"out: <run>\n{kind}\n")
    _write_curves(folder, env_steps, figures)
    return folder


def _write_curves(folder: Path, env_steps: int, figures: dict[str, Any]) -> None:
    names = ("mean_return", "success", "entropy", "effective_codes", "bound_share")
    evaluated = {name: figures[name] for name in names if figures[name] is not None}
    rows = [{"iteration": i, "env_steps": env_steps - 400 + 100 * i} for i in range(4)]
    rows = [row | {"coef": 0.3} | (evaluated if row["iteration"] % 2 else {}) for row in rows]
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["phase", "iteration", "env_steps", "coef", *evaluated])
        writer.writeheader()
        writer.writerows({"phase": "train"} | row for row in rows)


def make_entries(setup: Setup, folder: Path) -> list[ReportEntry]:
    """Return a base, a run, and a run that started from it."""
    figures, _ = evaluate_policy(
        setup, setup.steered(1, 1.0), None, num_codes=1, episodes=48, seed=1
    )
    first = write_run(setup, folder / "discover")
    second = write_run(setup, folder / "regularised", first)
    return [
        ReportEntry("base", "Base & <all>", None, {"sampled": figures}),
        ReportEntry("discover", "Stage 1", first),
        ReportEntry("regularised", "Regularised", second),
    ]


@pytest.fixture(scope="session")
def avoid() -> Setup:
    return make_setup("task:avoid", 24, (8, 2), [-0.002, 0.011])


@pytest.fixture(scope="session")
def pendulum() -> Setup:
    return make_setup("gymnasium:Pendulum-v1", 3, (8, 1), [0.1])


@pytest.fixture(scope="session")
def pictured() -> Setup:
    """Return a task whose episodes can be seen."""
    return pictured_setup(pictured_task())


@pytest.fixture(scope="session")
def filmed(pictured: Setup, tmp_path_factory: pytest.TempPathFactory) -> list[ReportEntry]:
    return make_entries(pictured, tmp_path_factory.mktemp("pictured"))


@pytest.fixture(scope="session")
def entries(avoid: Setup, tmp_path_factory: pytest.TempPathFactory) -> list[ReportEntry]:
    return make_entries(avoid, tmp_path_factory.mktemp("avoid"))


@pytest.fixture(scope="session")
def unlabelled(pendulum: Setup, tmp_path_factory: pytest.TempPathFactory) -> list[ReportEntry]:
    return make_entries(pendulum, tmp_path_factory.mktemp("pendulum"))
