"""The commands on an environment without a label, with a policy that no adapter knows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from modereg.checkpoints import load_adapter
from modereg.cli import main
from modereg.recipes.config import EvaluateConfig, TaskConfig
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune
from tests.recipes.conftest import (
    by_reward,
    discover_config,
    finetune_config,
    read_rows,
    read_summary,
)

POLICY = "tests.recipes.pendulum:policy"
TASK = TaskConfig("gymnasium:Pendulum-v1", {"max_steps": 40}, 8)

COMMON = """
    --base tests.recipes.pendulum:policy --task.name gymnasium:Pendulum-v1 --task.num-envs 8
    --task.options max_steps 40 --hidden 16 --log.no-progress --log.no-tensorboard --no-page
"""
EVERY_CODE = ("per_code_return", "code_shares", "effective_codes")
HELD_OUT = ("bound", "bound_share", "held_out_accuracy", "aliased_codes", "clipped_share")
LABELLED = ("success", "entropy", "present_modes", "commandable_modes", "per_mode_success")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of stage 1."""
    out = tmp_path_factory.mktemp("pendulum") / "found"
    arguments = f"""
        discover cluster --out {out} --num-codes 2 --final-episodes 32 --method.episodes 96
        --method.imitation-steps 60 --method.refinements 1 --method.refine-episodes 32
        --method.refine-steps 20
    """
    assert main([*arguments.split(), *COMMON.split()]) == 0
    return out


def _check_figures(figures: dict, codes: int) -> None:
    assert all(figures[name] is None for name in LABELLED)
    assert len(figures["per_code_return"]) == len(figures["code_shares"]) == codes
    assert sum(figures["code_shares"]) == pytest.approx(1.0)
    assert all(-16.3 * 40 * 1.01 < value < 0 for value in figures["per_code_return"])
    assert set(HELD_OUT) <= set(figures)
    assert figures["bound_share"] == pytest.approx(figures["bound"] / math.log(codes))
    assert 1.0 <= figures["effective_codes"] <= codes * 1.0001


def test_stage_one(found: Path) -> None:
    summary = read_summary(found)
    _check_figures(summary["sampled"], 2)
    chosen = [(96 + 32 + times * 32) * 40 for times in (1, 2)]  # again, if an earlier round is best
    assert summary["env_steps"] in chosen
    assert summary["partition"]["only_successes"] == 0.0
    assert load_adapter(found / "adapter").steering.observation_keys == ["observation"]


def test_stage_two_and_evaluation(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    looked = 8 * 40  # to let a code learn that stage 1 gave back to the base
    steps = read_summary(found)["env_steps"] + looked + 2 * 8 * 40
    arguments = f"""
        finetune --start {found} --out {out} --env-steps {steps} --eval-every 1
        --eval-episodes 16 --final-episodes 24 --accept-uncommanded
    """
    assert main([*arguments.split(), *COMMON.split()]) == 0
    summary, rows = read_summary(out), read_rows(out)
    assert summary["env_steps"] == steps
    assert [int(float(row["env_steps"])) for row in rows] == [steps - 320, steps]
    for how in ("sampled", "deterministic"):
        _check_figures(summary[how], 2)
    assert {"mean_return", "bound", "effective_codes", "mi_reward"} <= set(rows[-1])
    assert "success" not in rows[-1]

    capsys.readouterr()
    judge = ["evaluate", "--run", str(out), "--episodes", "24", "--seed", "20000"]
    assert main(judge) == 1  # the policy is code, which the run's own file names
    assert "'tests.recipes.pendulum:policy', which is not run" in capsys.readouterr().err
    assert main([*judge, "--base", POLICY]) == 0
    named = capsys.readouterr().out
    assert main([*judge, "--trust-code"]) == 0
    assert named == (shown := capsys.readouterr().out)
    printed = json.loads(shown)
    for how in ("sampled", "deterministic"):  # tables are in the run folder alone
        figures = {name: v for name, v in summary[how].items() if name in printed[how]}
        assert set(summary[how]) - set(figures) <= {"code_mode_table", "code_table"}
        assert printed[how] == figures


def test_the_papers_stage_one(tmp_path: Path) -> None:
    options = dict(method=by_reward(iterations=2), num_codes=3, final_episodes=16, task=TASK)
    summary = discover(discover_config(POLICY, tmp_path / "run", **options))
    _check_figures(summary["sampled"], 3)


def test_plain_fine_tuning_and_the_base_itself(tmp_path: Path) -> None:
    options = dict(task=TASK, std=None, final_episodes=16)
    summary = finetune(finetune_config(POLICY, tmp_path / "run", 900, **options))
    assert len(summary["sampled"]["per_code_return"]) == 1
    assert summary["sampled"]["success"] is None
    figures = evaluate(EvaluateConfig(base=POLICY, task=TASK, episodes=16))["sampled"]
    assert figures["mean_return"] == pytest.approx(figures["per_code_return"][0])


def test_an_expert_is_needed_for_cloning_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "--task.name", "gymnasium:Pendulum-v1", "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "has no expert to clone; bring a policy of your own" in capsys.readouterr().err
