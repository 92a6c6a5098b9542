from __future__ import annotations

import json
import random
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from modereg.errors import CheckpointError, ConfigurationError
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, LogConfig, PretrainConfig
from modereg.recipes.runs import Run, seed_everything
from modereg.storage import save_state

QUIET = LogConfig(progress=False, tensorboard=False)


def _config(out: Path, **changes: object) -> FinetuneConfig:
    return FinetuneConfig(out=out, log=QUIET, **changes)


def test_seeds_of_all_generators_depend_on_every_number() -> None:
    def draw(*numbers: int) -> tuple[int, float, float, float]:
        seed = seed_everything(*numbers)
        return seed, float(torch.rand(())), float(np.random.rand()), random.random()

    assert draw(0, 1) == draw(0, 1)
    numbers = ((0,), (1,), (0, 1), (1, 1), (0, 2, 1), (0, 1, 2), (1, 2, 3), (12345,))
    draws = [draw(*chosen) for chosen in numbers]
    for column in zip(*draws):
        assert len(set(column)) == len(numbers)
    assert all(0 <= entry[0] < 2**31 for entry in draws)


def test_a_new_run_writes_its_configuration_and_versions(tmp_path: Path) -> None:
    Run(_config(tmp_path / "run", seed=3, resume=True))
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["seed"], config["resume"]) == (3, False)
    assert config["ppo"]["clip"] == 0.2
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["torch"] == version("torch")
    assert {"python", "platform", "modereg", "torchrl", "tensordict"} <= set(versions)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(seed=1), "seed 0 there, 1 here"),
        (dict(coef=0.5, std=0.2), "coef 0.3 there, 0.5 here, std None there, 0.2 here"),
        (dict(hidden=(8,)), r"hidden \(128, 128\) there, \(8,\) here"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    Run(_config(tmp_path)).finish({"a": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for resume in (False, True):
        with pytest.raises(ConfigurationError, match=f"other options .*{named}.*another folder"):
            Run(_config(tmp_path, resume=resume, **changes))
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_where_it_goes_and_how_it_is_shown_may_change(tmp_path: Path) -> None:
    Run(_config(tmp_path)).finish({"a": 1})
    again = Run(replace(_config(tmp_path), log=LogConfig()))
    assert again.finished
    assert again.summary == {"a": 1}


def test_an_interrupted_run_asks_for_resume(tmp_path: Path) -> None:
    Run(_config(tmp_path)).checkpoint({})
    with pytest.raises(ConfigurationError, match="interrupted run .* add --resume"):
        Run(_config(tmp_path))
    assert not Run(_config(tmp_path, resume=True)).finished


def test_a_run_without_checkpoints_starts_over(tmp_path: Path) -> None:
    config = PretrainConfig(out=tmp_path, log=QUIET)
    Run(config)
    assert not Run(config).finished


def test_a_run_of_another_kind_and_foreign_files_are_refused(tmp_path: Path) -> None:
    Run(DiscoverConfig(out=tmp_path / "a", log=QUIET)).checkpoint({})
    with pytest.raises(ConfigurationError, match="a run of another kind .*another folder"):
        Run(_config(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("...")
    with pytest.raises(ConfigurationError, match="with other files in it"):
        Run(_config(tmp_path / "b"))
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_at_once_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.x1y2z3").write_text("base: ru")
    (tmp_path / "versions.json").write_text("{}")
    Run(_config(tmp_path))
    assert (tmp_path / "config.yaml").exists()


def test_an_error_before_any_work_blocks_no_folder(tmp_path: Path) -> None:
    Run(_config(tmp_path))
    Run(_config(tmp_path, seed=1))
    assert "seed: 1" in (tmp_path / "config.yaml").read_text()


def test_rows_and_state_come_back(tmp_path: Path) -> None:
    run = Run(_config(tmp_path))
    assert run.load() is None
    run.log({"env_steps": 10, "loss": 0.5, "shares": [0.5, 0.5], "phase": "a"})
    run.log({"env_steps": 20, "loss": 0.25, "success": None})
    run.checkpoint({"iteration": 2, "weights": torch.arange(3)})

    resumed = Run(_config(tmp_path, resume=True))
    state = resumed.load()
    assert state is not None
    assert state["iteration"] == 2
    assert torch.equal(state["weights"], torch.arange(3))
    assert resumed.seconds >= run.seconds - 1
    resumed.log({"env_steps": 30, "loss": 0.125})
    resumed.finish({"done": True})
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "env_steps,loss,phase,success",
        "10,0.5,a,",
        "20,0.25,,",
        "30,0.125,,",
    ]
    logged = next((tmp_path / "logs" / "csv").rglob("loss.csv")).read_text()
    assert logged.split() == ["10,0.5", "20,0.25", "30,0.125"]
    assert json.loads((tmp_path / "timing.json").read_text())["seconds"] >= 0
    assert Run(_config(tmp_path)).summary == {"done": True}


def test_a_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    run = Run(_config(tmp_path))
    save_state(tmp_path / "checkpoint.pt", {"model": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"a run's checkpoint in .*checkpoint.pt"):
        run.load()


def test_the_progress_bar_has_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(replace(_config(tmp_path / "run"), log=LogConfig(tensorboard=False)))
    run.progress(3, 10, success=0.98765)
    run.progress(10, 10, success=1.0)
    run.close()
    shown = capsys.readouterr().err
    assert "success=0.988" in shown
    assert "10/10" in shown


def test_tensorboard_is_an_option(tmp_path: Path) -> None:
    run = Run(replace(_config(tmp_path), log=replace(QUIET, tensorboard=True)))
    run.log({"env_steps": 1, "loss": 1.0})
    assert list((tmp_path / "logs").rglob("events.*"))
