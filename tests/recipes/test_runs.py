from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from modereg.balances.config import ConstantConfig
from modereg.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    NonFiniteError,
)
from modereg.learners.config import PPOConfig
from modereg.recipes import runs
from modereg.recipes.config import (
    DiscoverConfig,
    FinetuneConfig,
    GuidedConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
)
from modereg.recipes.follow import follow
from modereg.recipes.runs import Run, check_origin
from modereg.storage import save_state

QUIET = LogConfig(progress=False, tensorboard=False)


def _config(out: Path, **changes: object) -> FinetuneConfig:
    return FinetuneConfig(out=out, log=QUIET, **changes)


def test_a_new_run_writes_its_configuration_and_versions(tmp_path: Path) -> None:
    Run(_config(tmp_path / "run", seed=3, resume=True)).close()
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["seed"], config["resume"]) == (3, False)
    assert (config["learner"]["name"], config["learner"]["clip"]) == ("ppo", 0.2)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())["started"]
    assert versions["torch"] == version("torch")
    assert {"python", "platform", "modereg", "torchrl", "tensordict"} <= set(versions)


def _finish(config: FinetuneConfig) -> None:
    """Leave a finished run, with the artefact that it was to make."""
    with Run(config) as run:
        (run.folder / config.artefact).mkdir()
        run.finish({"a": 1})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(seed=1), "seed 0 there, 1 here"),
        (
            dict(num_codes=4, balance=ConstantConfig(0.5), std=0.2),
            "num_codes None .*balance.coef 0.3 there, 0.5 here, std",
        ),
        (dict(learner=PPOConfig(clip=0.1)), "learner.clip 0.2 there, 0.1 here"),
        (dict(task=TaskConfig(gamma=0.9)), "task.gamma None there, 0.9 here"),
        (dict(hidden=(8,)), r"hidden \[128, 128\] there, \[8\] here"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    _finish(_config(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for resume in (False, True):
        with pytest.raises(ConfigurationError, match=f"other options .*{named}.*another folder"):
            Run(_config(tmp_path, resume=resume, **changes))
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_where_it_goes_and_how_it_is_shown_may_change(tmp_path: Path) -> None:
    _finish(_config(tmp_path))
    with Run(replace(_config(tmp_path), log=LogConfig(), page=False)) as again:
        assert again.finished
        assert again.summary == {"a": 1}


def test_an_interrupted_run_asks_for_resume(tmp_path: Path) -> None:
    with Run(_config(tmp_path)) as run:
        run.checkpoint({})
    with pytest.raises(ConfigurationError, match="interrupted run .* add --resume"):
        Run(_config(tmp_path))
    with Run(_config(tmp_path, resume=True)) as run:
        assert run.resumed
        assert not run.finished


def test_a_run_without_checkpoints_starts_over(tmp_path: Path) -> None:
    config = PretrainConfig(out=tmp_path, log=QUIET)
    Run(config).close()
    with Run(config) as run:
        assert not run.finished
        assert not run.resumed


def test_a_run_of_another_kind_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with Run(DiscoverConfig(out=tmp_path / "a", log=QUIET)) as run:
        run.checkpoint({})
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
    Run(_config(tmp_path)).close()
    assert (tmp_path / "config.yaml").exists()


def test_an_error_before_any_work_blocks_no_folder(tmp_path: Path) -> None:
    Run(_config(tmp_path)).close()
    Run(_config(tmp_path, seed=1)).close()
    assert "seed: 1" in (tmp_path / "config.yaml").read_text()


def test_rows_and_state_come_back(tmp_path: Path) -> None:
    run = Run(_config(tmp_path))
    assert run.load() is None
    run.log({"env_steps": 10, "loss": 0.5, "shares": [0.5, 0.5], "phase": "a"})
    run.log({"env_steps": 20, "loss": 0.25, "success": None})
    run.checkpoint({"iteration": 2, "weights": torch.arange(3)})
    run.close()

    resumed = Run(_config(tmp_path, resume=True))
    state = resumed.load()
    assert state is not None
    assert state["iteration"] == 2
    assert torch.equal(state["weights"], torch.arange(3))
    assert resumed.seconds >= run.seconds - 1
    resumed.log({"env_steps": 30, "loss": 0.125})
    (tmp_path / "adapter").mkdir()
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
    resumed.close()
    with Run(_config(tmp_path)) as again:
        assert again.summary == {"done": True}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(value: float, tmp_path: Path) -> None:
    config = FinetuneConfig(out=tmp_path / "run", log=QUIET)
    with Run(config) as run:
        run.checkpoint({"learner": {"weights": [torch.ones(2)]}})
        before = (run.folder / "checkpoint.pt").read_bytes()
        with pytest.raises(NonFiniteError, match=r"in learner\.weights\.0; the last checkpoint"):
            run.checkpoint({"learner": {"weights": [torch.tensor([1.0, value])]}})
        assert (run.folder / "checkpoint.pt").read_bytes() == before


def test_a_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    run = Run(_config(tmp_path))
    save_state(tmp_path / "checkpoint.pt", {"model": torch.zeros(2)})
    with run, pytest.raises(CheckpointError, match=r"a run's checkpoint in .*checkpoint.pt"):
        run.load()


def test_tensorboard_is_an_option(tmp_path: Path) -> None:
    with Run(replace(_config(tmp_path), log=replace(QUIET, tensorboard=True))) as run:
        run.log({"env_steps": 1, "loss": 1.0})
    assert list((tmp_path / "logs").rglob("events.*"))


def test_a_folder_is_one_run_s_at_a_time(tmp_path: Path) -> None:
    """Within a process, and between two; a process that is killed leaves no lock."""
    taken = "another process is in the middle of; wait"
    with Run(_config(tmp_path)), pytest.raises(ConfigurationError, match=taken):
        Run(_config(tmp_path))
    Run(_config(tmp_path)).close()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom modereg.recipes.runs import _take_lock\n"
        f"_take_lock(Path({str(tmp_path)!r}))\nprint('held', flush=True)\ntime.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError, match=taken):
            Run(_config(tmp_path))
    finally:
        holder.kill()
        holder.communicate()
    Run(_config(tmp_path)).close()


def test_a_run_that_is_refused_holds_no_lock(tmp_path: Path) -> None:
    _finish(_config(tmp_path))
    with pytest.raises(ConfigurationError, match="other options"):
        Run(_config(tmp_path, seed=1))
    Run(_config(tmp_path)).close()


def test_a_file_in_the_folder_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigurationError, match="or none yet, got the file .*name another"):
        Run(_config(tmp_path / "run"))


@pytest.mark.parametrize("lost", ["adapter", "figures"])
def test_a_finished_run_without_what_it_made_is_an_error(tmp_path: Path, lost: str) -> None:
    _finish(_config(tmp_path))
    if lost == "adapter":
        (tmp_path / "adapter").rmdir()
    else:
        (tmp_path / "summary.json").write_text("{}")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=f"got one without {lost}.*remove .*summary.json"):
            list(follow(_config(tmp_path, resume=resume)))


@pytest.mark.parametrize("text", ["[1]", "3", "null"])
def test_a_summary_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    _finish(_config(tmp_path))
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match="expected a summary"):
        Run(_config(tmp_path))


@pytest.mark.parametrize("steps", [100, 8_000_000])
def test_a_resumed_run_may_be_longer_or_shorter_and_is_then_not_finished(
    tmp_path: Path, steps: int
) -> None:
    with Run(_config(tmp_path)) as run:
        run.checkpoint({"weights": 1})
    _finish(_config(tmp_path, resume=True))
    with pytest.raises(ConfigurationError, match=f"env_steps 4000000 there, {steps} here"):
        Run(_config(tmp_path, env_steps=steps))
    with Run(_config(tmp_path, env_steps=steps, resume=True)) as run:
        assert run.extended
        assert not run.finished
        assert run.load() == {"weights": 1}
    assert f"env_steps: {steps}\n" in (tmp_path / "config.yaml").read_text()
    with pytest.raises(ConfigurationError, match="seed 0 there, 1 here"):
        Run(_config(tmp_path, env_steps=5, seed=1, resume=True))


def test_the_budget_of_a_method_is_one_too(tmp_path: Path) -> None:
    config = DiscoverConfig(out=tmp_path, log=QUIET)
    with Run(config) as run:
        run.checkpoint({})
    more = replace(config, method=GuidedConfig(refinements=9), resume=True)
    with Run(more) as run:
        assert run.extended
    with pytest.raises(ConfigurationError, match=r"method\.episodes None there, 7 here"):
        Run(replace(more, method=GuidedConfig(episodes=7)))


def test_what_a_run_started_from_must_be_there_again() -> None:
    state = {"origin": {"base": "a", "start": None}}
    check_origin(state, {"base": "a", "start": None})
    with pytest.raises(CheckpointError, match="expected the base that the interrupted run began"):
        check_origin(state, {"base": "b", "start": None})
    with pytest.raises(CheckpointError, match="expected the base and the start that the"):
        check_origin(state, {"base": "b", "start": "c"})


def test_other_versions_are_a_warning_and_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run(_config(tmp_path)) as run:
        run.checkpoint({"a": 1})
    before = json.loads((tmp_path / "versions.json").read_text())
    with Run(_config(tmp_path, resume=True)) as run:
        assert run.load() == {"a": 1}  # without a warning, which would be an error
    monkeypatch.setattr(runs, "version", lambda name: "99" if name == "torch" else version(name))
    said = pytest.warns(UserWarning, match=r"other versions \(torch .* then, 99 now\)")
    with Run(_config(tmp_path, resume=True)) as run, said:
        assert run.load() == {"a": 1}
    after = json.loads((tmp_path / "versions.json").read_text())
    assert after["started"] == before["started"]
    assert after["resumed"] == before["started"] | {"torch": "99"}


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in the place of wandb says what it was asked for."""
    seen: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []

    class Recorder:
        def __init__(self, name: str, **options: Any) -> None:
            seen.append({"name": name} | options)

        def log_scalar(self, *row: Any, step: int) -> None:
            rows.append((*row, step))

    fake = ModuleType("torchrl.record.loggers.wandb")
    fake.WandbLogger = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchrl.record.loggers.wandb", fake)
    monkeypatch.setattr(runs, "_has", lambda library: library == "wandb")
    log = replace(QUIET, wandb="mine")
    for number in range(2):
        with Run(replace(_config(tmp_path / "here", resume=number > 0), log=log)) as run:
            run.load()
            run.log({"env_steps": 10 + number, "loss": 0.5})
            run.checkpoint({})
    first, second = seen
    assert first == second
    assert (first["name"], first["project"], first["resume"]) == ("here", "mine", "allow")
    assert len(first["id"]) >= 8
    with Run(replace(_config(tmp_path / "there"), log=log)) as run:
        run.log({"loss": 1.0})
    assert seen[2]["id"] != first["id"]
    assert rows[0] == ("env_steps", 10.0, 10)


def test_wandb_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_has", lambda library: False)
    refused = pytest.raises(MissingDependencyError, match="not installed: pip install wandb")
    with Run(replace(_config(tmp_path), log=replace(QUIET, wandb="mine"))) as run, refused:
        run.log({"loss": 1.0})
