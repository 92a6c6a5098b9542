"""Four real kills: a process is killed at some moment, and the run that is resumed is compared."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modereg.cli import main
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, LogConfig, to_yaml
from modereg.recipes.follow import discover, finetune
from modereg.recipes.runs import Run
from tests.recipes.conftest import (
    by_reward,
    clustering,
    discover_config,
    finetune_config,
    guiding,
    read_rows,
    read_summary,
)

Config = DiscoverConfig | FinetuneConfig
Recipe = Callable[[Any], dict[str, Any]]

VARIATIONAL: dict[str, Any] = dict(method=by_reward(iterations=8), num_codes=4)
SAME = (
    "summary.json",
    "curves.csv",
    "adapter/modereg_config.json",
    "adapter/modereg_model.safetensors",
)


RUN = """
import sys, torch
torch.set_num_threads(1)
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, from_yaml
from modereg.recipes.follow import discover, finetune
recipe, kind = {"discover": (discover, DiscoverConfig), "finetune": (finetune, FinetuneConfig)}[
    sys.argv[1]
]
recipe(from_yaml(kind, sys.argv[2]))
"""


def _kill_after_checkpoints(recipe: Recipe, config: Config, changes: int) -> None:
    """Run the recipe in a process, and kill it a moment after its checkpoint has changed."""
    command = [sys.executable, "-c", RUN, recipe.__name__, to_yaml(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: set[int] = set()
    deadline, checkpoint = time.monotonic() + 180, config.out / "checkpoint.pt"
    try:
        while len(seen) < changes:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, "no checkpoint was written"
            if checkpoint.exists():
                seen.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.002)
        time.sleep(random.random() * 0.03)  # somewhere in the next iteration
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (config.out / "summary.json").exists(), "the run ended before it was killed"


@contextmanager
def _counted_rows() -> Iterator[list[int]]:
    """Count the rows that runs log meanwhile, one entry each."""
    rows, log = [], Run.log

    def count(self: Run, row: dict) -> None:
        rows.append(1)
        log(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", count)
        yield rows


def _check(recipe: Recipe, config: Config, changes: int) -> None:
    killed = replace(config, out=config.out / "killed")
    _kill_after_checkpoints(recipe, killed, changes)
    with _counted_rows() as resumed:
        recipe(replace(killed, resume=True))
    rows = read_rows(killed.out)
    assert 0 < len(resumed) <= len(rows) - changes, "it did not go on, it began again"
    whole = replace(config, out=config.out / "whole")
    recipe(whole)
    for name in SAME:
        assert (killed.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_killed_while_discovering_by_clusters(base: str, tmp_path: Path) -> None:
    method = clustering(imitation_steps=60, refinements=4, refine_episodes=128, target=1.0)
    _check(discover, discover_config(base, tmp_path, method=method, num_codes=6), 2)
    assert [row["phase"] for row in read_rows(tmp_path / "killed")].count("refine") == 4


def test_killed_while_guiding(tmp_path: Path) -> None:
    """Six codes on four modes do not all command, so that rounds go on."""
    method = guiding(refinements=4, episodes=256, outcome_steps=40, guide_steps=40, target=1.0)
    method = replace(method, student_steps=1500)  # a student is never worth it there
    base = "tests.recipes.tiny:heading"
    _check(discover, discover_config(base, tmp_path, method=method, num_codes=6), 3)
    assert [row["phase"] for row in read_rows(tmp_path / "killed")].count("refine") >= 2


def test_killed_while_fine_tuning(base: str, variational: Path, tmp_path: Path) -> None:
    steps = read_summary(variational)["env_steps"] + 12_000
    config = finetune_config(base, tmp_path, steps, start=str(variational), eval_every=5)
    _check(finetune, config, 4)


def test_resumed_logs_have_every_step_once(base: str, tmp_path: Path) -> None:
    """Interrupted by an error after some iterations, as by a full disk, with all loggers on."""
    out, checkpoint, calls = tmp_path / "run", Run.checkpoint, []

    def fail(self: Run, state: dict) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise OSError("no space left on device")
        checkpoint(self, state)

    log = LogConfig(progress=False)
    config = discover_config(base, out, **VARIATIONAL, log=log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "checkpoint", fail)
        with pytest.raises(OSError, match="no space"):
            discover(config)
    discover(replace(config, resume=True))

    rows = read_rows(out)
    expected = [int(float(row["env_steps"])) for row in rows]
    assert len(set(expected)) == 8
    scalars = next((out / "logs" / "csv").rglob("loss_critic.csv")).read_text().split()
    assert [int(line.split(",")[0]) for line in scalars] == expected
    events = EventAccumulator(str(next((out / "logs").rglob("events.*")).parent))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_critic")] == expected
    logged = [event.value for event in events.Scalars("loss_critic")]
    assert logged == pytest.approx([float(row["loss_critic"]) for row in rows], rel=1e-5)


def test_an_interrupted_run_needs_resume_and_a_damaged_checkpoint_is_named(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    common = ["discover", "variational", "--num-codes", "4", "--method.iterations", "9"]
    common += ["--task.name", "task:gaussian_mixture", "--task.num-envs", "64"]
    common += ["--log.no-tensorboard", "--log.no-progress", "--base", base, "--out", str(out)]

    def interrupt(self: Run, state: dict) -> None:
        checkpoint(self, state)
        raise KeyboardInterrupt

    checkpoint = Run.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "checkpoint", interrupt)
        assert main(common) == 130
    assert capsys.readouterr().err.endswith(f"{shlex.join(['modereg', *common, '--resume'])}\n")

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(common) == 1
    assert "holds an interrupted run with the same options; add --resume" in capsys.readouterr().err
    assert main([*common, "--resume", "--seed", "1"]) == 1
    assert "other options (seed 0 there, 1 here)" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    data = (out / "checkpoint.pt").read_bytes()
    for damaged in (data[:-100], data[:5000] + b"?" + data[5001:], json.dumps({}).encode()):
        (out / "checkpoint.pt").write_bytes(damaged)
        assert main([*common, "--resume"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "checkpoint.pt, got one that is truncated, altered or foreign" in error
