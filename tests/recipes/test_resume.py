"""Three real kills: a process is killed at some moment, and the run that is resumed is compared."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modereg.cli import main
from modereg.recipes.runs import Run
from tests.recipes.conftest import read_rows, read_summary

COMMON = """
    --task.name task:gaussian_mixture --task.num-envs 64 --hidden 32 32
    --log.no-progress --log.no-tensorboard
"""
CLUSTER = """
    discover --episodes 512 --num-codes 6 --imitation-steps 60 --target 2 --refinements 12
    --refine-episodes 192 --refine-steps 40
"""
VARIATIONAL = "discover --method variational --num-codes 4 --iterations 24 --refine-episodes 128"
FINETUNE = "finetune --eval-every 5 --eval-episodes 64 --final-episodes 128 --std 0.4"
SAME = (
    "summary.json",
    "curves.csv",
    "adapter/modereg_config.json",
    "adapter/modereg_model.safetensors",
)


def _kill_after_checkpoints(arguments: list[str], out: Path, changes: int) -> None:
    """Run the command in a process, and kill it a moment after its checkpoint has changed."""
    command = [sys.executable, "-m", "modereg.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: set[int] = set()
    deadline = time.monotonic() + 120
    try:
        while len(seen) < changes:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, "no checkpoint was written"
            if (out / "checkpoint.pt").exists():
                seen.add((out / "checkpoint.pt").stat().st_mtime_ns)
            time.sleep(0.002)
        time.sleep(random.random() * 0.03)  # somewhere in the next iteration
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "summary.json").exists(), "the run ended before it was killed"


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


def _check(arguments: str, tmp_path: Path, changes: int) -> None:
    common = [*arguments.split(), *COMMON.split()]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _kill_after_checkpoints([*common, "--out", str(killed)], killed, changes)
    with _counted_rows() as resumed:
        assert main([*common, "--out", str(killed), "--resume"]) == 0
    assert 0 < len(resumed) <= len(read_rows(killed)) - changes, "it did not go on, it began again"
    assert main([*common, "--out", str(whole)]) == 0
    for name in SAME:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_killed_while_discovering_by_clusters(base: str, tmp_path: Path) -> None:
    _check(f"{CLUSTER} --base {base}", tmp_path, 3)
    assert [row["phase"] for row in read_rows(tmp_path / "killed")].count("refine") == 12


def test_killed_while_discovering_by_reinforcement_learning(base: str, tmp_path: Path) -> None:
    _check(f"{VARIATIONAL} --base {base}", tmp_path, 7)
    assert len(read_rows(tmp_path / "killed")) == 24


def test_killed_while_fine_tuning(base: str, variational: Path, tmp_path: Path) -> None:
    steps = read_summary(variational)["env_steps"] + 25_000
    _check(f"{FINETUNE} --base {base} --start {variational} --env-steps {steps}", tmp_path, 8)


def test_resumed_logs_have_every_step_once(base: str, tmp_path: Path) -> None:
    """Interrupted by an error after some iterations, as by a full disk, with all loggers on."""
    out, checkpoint, calls = tmp_path / "run", Run.checkpoint, []

    def fail(self: Run, state: dict) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise OSError("no space left on device")
        checkpoint(self, state)

    common = [*VARIATIONAL.split(), *COMMON.split()[:-1], "--base", base, "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "checkpoint", fail)
        with pytest.raises(OSError, match="no space"):
            main(common)
    assert main([*common, "--resume"]) == 0

    rows = read_rows(out)
    expected = [int(float(row["env_steps"])) for row in rows]
    assert len(set(expected)) == 24
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
    common = [*VARIATIONAL.split(), *COMMON.split(), "--base", base, "--out", str(out)]

    def interrupt(self: Run, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "progress", interrupt)  # what comes after the first checkpoint
        assert main(common) == 130
    assert "is kept. Repeat the command with --resume to go on." in capsys.readouterr().err

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
