"""The main path on a GPU where there is one, on a fake accelerator otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.devices.fake_accelerator import SUPPORTED
from tests.devices.main_path import CONTROLS, STEPS, attempt, results

ROOT = Path(__file__).parents[2]

REAL = torch.cuda.is_available()


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    """What each control and each step raised, nothing where it passed; of one run for all."""
    return _on_a_gpu() if REAL else _on_a_fake_one()


def _on_a_gpu() -> dict[str, dict[str, str]]:
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    controls = {name: attempt(lambda run=run: run(gpu)) for name, run in CONTROLS.items()}
    return {"controls": controls, "together": results(gpu, gpu), "apart": results(gpu, cpu)}


def _on_a_fake_one() -> dict[str, dict[str, str]]:
    if not SUPPORTED:
        pytest.skip("this torch lets no device be written in Python, and there is no GPU")
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.devices.main_path"],
        cwd=ROOT,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("control", CONTROLS)
def test_what_a_device_refuses_is_refused(found: dict[str, dict[str, str]], control: str) -> None:
    assert found["controls"][control]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("where", ["together", "apart"])
def test_a_step_runs_on_the_device(found: dict[str, dict[str, str]], where: str, step: str) -> None:
    """With the environment on the device, and with it on the CPU."""
    assert not found[where][step], found[where][step]
