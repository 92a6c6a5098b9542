"""The commands of the main job on a task of two modes, end to end with a tiny budget."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from modereg.cli import main
from modereg.files import read_json
from modereg.report import films

STEPS = 12
TASK = [
    *("--task.name", "maniskill:ModeregReach-v1", "--task.num-envs", "2"),
    *("--task.options", "max_steps", str(STEPS), "render_size", "8"),
]
QUIET = ["--log.no-progress", "--log.no-tensorboard"]
SMALL = ["--hidden", "16", "16"]


def run(capsys: pytest.CaptureFixture[str], command: str, out: Path, *options: str) -> Any:
    """What a command prints at its end."""
    capsys.readouterr()
    assert main([*command.split(), "--out", str(out), *TASK, *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("shared_simulations")
def test_the_commands_run_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "RENDERED", 2)
    cloned = run(
        capsys, "pretrain", tmp_path / "base", "--episodes", "2", "--steps", "20", *SMALL, *QUIET
    )
    assert cloned["demonstrated_modes"] == [1, 1]
    base = ["--base", cloned["policy"]]

    judged = run(capsys, "evaluate", tmp_path / "judged", *base, "--episodes", "3")
    assert judged["sampled"]["episodes"] == 3
    assert judged["sampled"]["code_shares"] == [1.0]

    found = run(
        capsys, "discover cluster", tmp_path / "found", *base, *SMALL, *QUIET,
        *("--num-codes", "2", "--method.episodes", "6", "--method.imitation-steps", "5"),
        *("--method.refinements", "1", "--method.refine-episodes", "2"),
        *("--method.refine-steps", "2", "--final-episodes", "2"),
    )  # fmt: skip
    assert 0 < found["env_steps"] <= 10 * STEPS
    assert found["partition"]["num_codes"] == 2

    looked = 2 * STEPS  # to let a code learn that stage 1 gave back to the base
    budget = found["env_steps"] + looked + 1
    tune = [*base, *SMALL, *QUIET, "--env-steps", str(budget), "--final-episodes", "2"]
    start = ["--start", str(tmp_path / "found"), "--accept-uncommanded"]
    tuned = run(capsys, "finetune", tmp_path / "tuned", *tune, *start)
    assert budget <= tuned["env_steps"] <= budget + 2 * STEPS
    rows = (tmp_path / "tuned" / "curves.csv").read_text().splitlines()
    assert len(rows) == 2  # the title and one iteration
    assert "mi_reward" in rows[0]
    plain = run(capsys, "finetune", tmp_path / "plain", *tune)
    assert plain["sampled"]["code_shares"] == [1.0]

    again = run(
        capsys, "evaluate", tmp_path / "again",
        *("--run", str(tmp_path / "tuned"), "--episodes", "2", "--seed", "3"),
    )  # fmt: skip
    for how in ("sampled", "deterministic"):
        assert len(again[how]["code_shares"]) == 2
        assert math.isfinite(again[how]["bound"])
        assert tuned[how].keys() == again[how].keys()
    assert read_json(tmp_path / "again" / "evaluation.json")["run"] == str(tmp_path / "tuned")
