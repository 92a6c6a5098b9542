"""What the base does not decide is no feature, from stage 1 through to whatever reads its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modereg.checkpoints import load_adapter
from modereg.errors import ConfigurationError
from modereg.recipes.config import EvaluateConfig, InspectConfig, TaskConfig
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune
from modereg.recipes.inspect_base import inspect_base
from modereg.recipes.inspect_table import table
from tests.recipes.conftest import discover_config, finetune_config, guiding, read_summary

POLICY = "tests.recipes.planted:forking"
TASK = TaskConfig("tests.recipes.planted:task_with_goal")
DECIDED = [0, 1, 2, 3, 4, 5]
LEFT_OUT = r"dimensions 6, 7 of the feature \(observation\) do not depend on what is played and are"

pytestmark = pytest.mark.filterwarnings("ignore:dimensions 6, 7 of the feature")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a stage 1 that was told of no feature."""
    out = tmp_path_factory.mktemp("features") / "found"
    tiny = guiding(episodes=512, refinements=1, outcome_steps=40, guide_steps=40, student_steps=40)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        discover(discover_config(POLICY, out, task=TASK, method=tiny, final_episodes=64))
    return out


def test_stage_one_sees_four_ways_and_no_goal(found: Path) -> None:
    summary = read_summary(found)
    assert summary["feature_dims"] == DECIDED
    assert summary["partition"]["suggested_modes"] == 4
    adapter = load_adapter(found / "adapter")
    assert adapter.layout.feature_dims == tuple(DECIDED)


def test_whatever_goes_on_from_it_sees_the_same(found: Path, tmp_path: Path) -> None:
    judged = evaluate(EvaluateConfig(run=found, trust_code=True, episodes=64))
    assert judged["sampled"]["episodes"] == 64
    steps = read_summary(found)["env_steps"] + 600
    options = dict(task=TASK, start=str(found), std=None, final_episodes=32)
    finetune(finetune_config(POLICY, tmp_path / "tuned", steps, accept_uncommanded=True, **options))
    tuned = load_adapter(tmp_path / "tuned" / "adapter")
    assert tuned.layout.feature_dims == tuple(DECIDED)
    options["task"] = replace(TASK, feature_dims=(0, 1))
    other = finetune_config(POLICY, tmp_path / "other", steps, accept_uncommanded=True, **options)
    with pytest.raises(ConfigurationError, match=r"feature_dims \(0, 1, 2, 3, 4, 5\) and \(0, 1\)"):
        finetune(other)


def test_named_features_stay(tmp_path: Path) -> None:
    named = replace(TASK, feature_dims=(0, 1, 7))
    tiny = guiding(episodes=512, refinements=0, outcome_steps=1, guide_steps=1, student_steps=1)
    config = discover_config(
        POLICY, tmp_path, task=named, method=tiny, num_codes=4, final_episodes=64
    )
    assert discover(config)["feature_dims"] is None
    assert load_adapter(tmp_path / "adapter").layout.feature_dims == (0, 1, 7)


def test_inspect_says_which() -> None:
    with pytest.warns(UserWarning, match=LEFT_OUT):
        result = inspect_base(InspectConfig(base=POLICY, task=TASK, episodes=512))
    assert result["layout"]["features"] == {"keys": ["observation"], "dims": DECIDED}
    assert result["spread"]["clusters"] == 4
    assert "feature     observation, dimensions 0 to 5\n" in table(result)
