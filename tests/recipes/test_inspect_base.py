from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg.cli import main
from modereg.errors import ConfigurationError
from modereg.recipes.config import InspectConfig, ProgressConfig, TaskConfig
from modereg.recipes.inspect_base import inspect_base
from modereg.recipes.inspect_table import table
from tests.recipes.conftest import TASK

PLANTED = "tests.recipes.planted"
SMALL = InspectConfig(episodes=300)
FEW = "ignore:expected at least 200 successful episodes"


def planted(policy: str, **changes: Any) -> dict[str, Any]:
    task = TaskConfig(f"{PLANTED}:task")
    return inspect_base(replace(SMALL, base=f"{PLANTED}:{policy}", task=task, **changes))


@pytest.mark.filterwarnings(FEW)
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
        "features": {"keys": ["observation"], "dims": [0, 1]},
    }
    assert result["deterministic"]
    assert 0.05 < result["sampled"]["success"] < 1
    assert result["spread"]["present_modes"] == 4
    assert result["spread"]["entropy"] > 0.5
    codes = result["reach"]["codes"]
    assert result["spread"]["clusters"] == len(codes) >= 2
    assert all(0 <= code["share"] <= 1 and 0 <= code["reach"] <= 1 for code in codes)
    assert max(code["reach"] - code["share"] for code in codes) > 0.2
    assert 0 < result["env_steps"] <= 300 * 24
    assert json.loads((tmp_path / "new" / "folder" / "inspection.json").read_text()) == result


def test_what_noise_decides_can_be_commanded_and_the_command_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--episodes", "200", "--out", str(tmp_path)]
    names = ["--base", f"{PLANTED}:forking", "--task.name", f"{PLANTED}:task"]
    assert main(["inspect", *names, *options]) == 0
    result = json.loads((tmp_path / "inspection.json").read_text())
    codes = result["reach"]["codes"]
    assert [code["share"] for code in codes] == pytest.approx([0.25] * 4, abs=0.1)
    assert all(code["reach"] > 0.8 for code in codes)
    assert result["advice"].startswith("Steerable: noise can command all 4 behaviours.")
    assert result["sampled"]["success"] is None
    printed = capsys.readouterr()
    assert printed.out == table(result) + "\n"
    assert "inspect: about 0.0006 M environment steps" in printed.err
    assert re.search(r"inspect: took \d+ s", printed.err)


def test_what_chance_decides_cannot() -> None:
    result = planted("drifting")
    assert result["spread"]["clusters"] == 4
    assert all(code["reach"] < 0.45 for code in result["reach"]["codes"])
    assert result["advice"].startswith("Hardly steerable: noise can command none of 4 behaviours.")


@pytest.mark.parametrize("policy", ["deciding", "ignoring"])
def test_one_bundle_is_one_behaviour_without_codes(policy: str) -> None:
    result = planted(policy)
    assert result["spread"]["clusters"] == 1
    assert result["reach"] is None
    assert result["advice"].startswith("One behaviour")


def test_a_stochastic_policy_is_named_and_not_inspected_further(tmp_path: Path) -> None:
    result = planted("stochastic", out=tmp_path)
    assert not result["deterministic"]
    assert result["advice"].startswith("Not steerable: _FunctionPolicy decoded one noise into two")
    assert "reach" not in result
    assert json.loads((tmp_path / "inspection.json").read_text()) == result


def test_too_few_episodes_to_cluster_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected at least 16 episodes"):
        planted("forking", episodes=10, log=ProgressConfig(progress=False))
