from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg.cli import main
from modereg.errors import ConfigurationError
from modereg.recipes.config import InspectConfig, TaskConfig
from modereg.recipes.inspect_base import inspect_base
from modereg.recipes.inspect_table import table
from tests.recipes.conftest import TASK

PLANTED = "tests.recipes.planted"
SMALL = InspectConfig(episodes=400, noises=8, held_episodes=512, classifier_steps=120)


def planted(policy: str, **changes: Any) -> dict[str, Any]:
    task = TaskConfig(f"{PLANTED}:task")
    config = replace(SMALL, base=f"{PLANTED}:{policy}", task=task, episodes=120)
    return inspect_base(replace(config, **changes))


def nats(result: dict[str, Any]) -> list[float]:
    return [row["nats"] for row in result["noise"]["information"]]


def test_a_cloned_base_decides_by_its_noise(base: str, tmp_path: Path) -> None:
    config = replace(SMALL, base=base, task=TASK, out=tmp_path / "new" / "folder")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    result = inspect_base(config)
    assert torch.equal(torch.rand(3), expected)
    assert result["layout"] == {
        "horizon": 4,
        "executed": 4,
        "offset": 0,
        "action_dims": 2,
        "noise_shape": [4, 2],
        "observations": {"observation": [2]},
        "observation_steps": 1,
        "max_decisions": 6,
    }
    assert result["deterministic"]
    assert 0.05 < result["sampled"]["success"] < 1
    assert result["spread"]["present_modes"] == 4
    assert result["spread"]["entropy"] > 0.5
    assert 0.5 < nats(result)[2] <= nats(result)[0] <= math.log(8) == result["noise"]["limit"]
    assert "teerable" in result["advice"]
    assert "try 8 codes" in result["advice"]
    assert json.loads((tmp_path / "new" / "folder" / "inspection.json").read_text()) == result
    assert inspect_base(replace(config, out=None)) == result


def test_noise_that_decides_all_is_worth_nearly_log_m() -> None:
    result = planted("deciding")
    assert all(0.95 * math.log(8) < value <= math.log(8) for value in nats(result))
    assert result["noise"]["commandable_modes"] is None
    assert result["spread"]["clusters"] == 1  # all of it is one Gaussian
    assert result["advice"].startswith("Steerable, but with one behaviour to keep")
    assert result["sampled"]["success"] is None


def test_noise_that_decides_nothing_is_worth_nothing() -> None:
    result = planted("ignoring")
    assert all(value < 0.08 for value in nats(result))
    assert result["advice"].startswith("Hardly steerable")


def test_a_stochastic_policy_is_named_and_not_inspected_further(tmp_path: Path) -> None:
    result = planted("stochastic", out=tmp_path)
    assert not result["deterministic"]
    assert result["advice"].startswith("Not steerable: _FunctionPolicy decoded one noise into two")
    assert "noise" not in result
    assert json.loads((tmp_path / "inspection.json").read_text()) == result


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--episodes", "120", "--noises", "4", "--held-episodes", "64"]
    options += ["--classifier-steps", "20", "--smoothing", "0.5", "--out", str(tmp_path)]
    names = ["--base", f"{PLANTED}:deciding", "--task.name", f"{PLANTED}:task"]
    assert main(["inspect", *names, *options]) == 0
    assert (
        capsys.readouterr().out
        == table(json.loads((tmp_path / "inspection.json").read_text())) + "\n"
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"noises": 1}, "at least 2 noises"),
        ({"held_episodes": 63}, "8 held_episodes for each, got 8 and 63"),
        ({"smoothing": ()}, "positive levels"),
        ({"smoothing": (0.1, 0.0)}, "smoothing above 0 and finite, got 0.0"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        planted("deciding", **changes)
