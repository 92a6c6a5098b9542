"""Real signals to real processes: the command that they print goes on to the same bytes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modereg.cli import main
from modereg.recipes.follow import finetune, pretrain
from tests.recipes.conftest import finetune_config, pretrain_config, read_summary

BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def wait_for_checkpoints(out: Path, number: int) -> None:
    """Wait until a run has saved so many times."""
    seen: set[int] = set()
    deadline, checkpoint = time.monotonic() + 180, out / "checkpoint.pt"
    while len(seen) < number:
        assert time.monotonic() < deadline, "no checkpoint was written"
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.002)


@pytest.mark.timeout(600)  # two processes, on a machine that may have others
def test_ctrl_c_while_fine_tuning(base: str, clusters: Path, tmp_path: Path) -> None:
    """Pressed three times; the printed line is run by a shell."""
    out, steps = tmp_path / "it's mine", read_summary(clusters)["env_steps"] + 12_000
    config = finetune_config(base, out, steps, start=str(clusters), eval_every=100)
    options = [
        "finetune", "--base", base, "--start", str(clusters), "--out", str(out),
        "--task.name", config.task.name, "--task.num-envs", str(config.task.num_envs),
        "--env-steps", str(steps), "--eval-every", "100", "--eval-episodes", "64",
        "--final-episodes", "128", "--hidden", "32", "32", "--std", "0.4", "--learner.epochs", "2",
        "--log.no-tensorboard", "--no-page",
    ]  # fmt: skip
    process = subprocess.Popen(
        [BIN / "modereg", *options], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    wait_for_checkpoints(out, 2)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    log = process.communicate(timeout=180)[1]
    assert process.returncode == 130, log
    assert not (out / "summary.json").exists(), "the run ended before the signal"
    assert "it's mine, training: " in log
    assert "\r" not in log
    _, after = log.split(f"modereg: interrupted; the run in {out} is kept. To go on:\n")
    command = after.splitlines()[0]
    assert shlex.split(command) == ["modereg", *options, "--resume"]
    done = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    finetune(replace(config, out=tmp_path / "whole"))
    for name in ("summary.json", "curves.csv", "adapter/modereg_model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_sigterm_while_cloning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this very process; another thread sends the signal."""
    out = tmp_path / "run"
    config = pretrain_config(out, steps=450, hidden=(32,), episodes=20)
    options = [
        "pretrain", "--out", str(out), "--task.name", config.task.name, "--steps", "450",
        "--episodes", "20", "--hidden", "32", "--batch", "256", "--ema", "0.98",
        "--task.num-envs", "64", "--inference-steps", "3", "--log.no-tensorboard",
        "--log.no-progress",
    ]  # fmt: skip

    def terminate() -> None:
        wait_for_checkpoints(out, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=terminate)
    sender.start()
    assert main(options) == 143
    sender.join()
    assert not (out / "summary.json").exists(), "the run ended before the signal"
    shown = capsys.readouterr().err
    command = shown.removeprefix(f"\nmodereg: interrupted; the run in {out} is kept. To go on:\n")
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().err == ""
    whole = Path(pretrain(replace(config, out=tmp_path / "whole"))["policy"])
    for path in whole.rglob("*.safetensors"):
        assert (out / "policy" / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert (out / "curves.csv").read_bytes() == (tmp_path / "whole" / "curves.csv").read_bytes()
