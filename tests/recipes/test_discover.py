from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.discovery.judge import CodeJudge
from modereg.errors import ConfigurationError
from modereg.recipes.discover import affordable_episodes
from modereg.recipes.follow import discover, finetune
from modereg.recipes.setup import set_up
from modereg.rollouts import collect_episodes
from tests.recipes.conftest import (
    TASK,
    by_reward,
    clustering,
    discover_config,
    finetune_config,
    guiding,
    read_rows,
    read_summary,
)

HELD_OUT = ("bound", "bound_share", "held_out_accuracy", "aliased_codes", "clipped_share")


def test_guided_codes_command_what_the_base_does(guided: Path, base: str) -> None:
    summary, rows = read_summary(guided), read_rows(guided)
    assert summary["method"] == "guided"
    assert [row["phase"] for row in rows][:3] == ["cluster", "fit", "refine"]
    assert float(rows[1]["outcome_nll"]) < float(rows[1]["class_share_nll"])
    assert {"hits", "commanded", "outcome_nll", "log_outcome", "kl"} <= set(rows[-1])
    sampled, verdict = summary["sampled"], summary["verdict"]
    assert sampled["present_modes"] == 4
    assert sampled["success"] > verdict["base_success"]
    assert summary["steered_codes"] == 1.0
    assert summary["commanded_codes"] >= 0.75
    assert [code["code"] for code in verdict["codes"]] == [0, 1, 2, 3]
    commanding = sum(code["commands"] for code in verdict["codes"])
    assert summary["commanded_codes"] == commanding / 4
    assert verdict["text"].startswith(f"{commanding} of 4 codes command; success ")
    adapter = load_adapter(guided / "adapter", set_up(TASK, base).base)
    assert adapter.extra["commanded"] == summary["commanded_codes"]
    assert torch.equal(adapter.steering.head.steered, torch.ones(4))


@pytest.mark.parametrize(
    ("episodes_per_second", "expected"), [(50.0, 2048), (1.0, 1800), (0.01, 512)]
)
def test_a_slow_environment_is_asked_for_fewer_episodes(
    episodes_per_second: float, expected: int
) -> None:
    assert affordable_episodes(episodes_per_second) == expected


def test_budgets_follow_the_measured_speed(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modereg.recipes.discover.steps_per_second", lambda _: 0.01)
    few = guiding(episodes=None, refinements=0, outcome_steps=1, guide_steps=1, student_steps=1)
    config = discover_config(base, tmp_path, method=few, num_codes=4, final_episodes=None)
    summary = discover(config)
    assert summary["partition"]["clustered_episodes"] <= 512
    assert summary["sampled"]["episodes"] == 1024


def test_what_commands_nothing_is_the_base_and_no_start(base: str, tmp_path: Path) -> None:
    few = guiding(refinements=0, outcome_steps=1, guide_steps=1, student_steps=1)
    out = tmp_path / "found"
    summary = discover(discover_config(base, out, method=few, num_codes=4))
    assert summary["commanded_codes"] == 0.0
    assert not any(code["commands"] for code in summary["verdict"]["codes"])
    tune = finetune_config(base, tmp_path / "tuned", summary["env_steps"] + 2500, start=str(out))
    with pytest.raises(ConfigurationError, match="of which none does .*--accept-uncommanded to go"):
        finetune(tune)
    assert finetune(replace(tune, accept_uncommanded=True))["env_steps"] > summary["env_steps"]


def test_what_was_chosen_again_is_judged_again(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fresh episodes, and those that made it be chosen again are counted as spent."""
    seen: list[int] = []

    def choose_once(stage: CodeJudge, std: float) -> bool:
        seen.append(stage.judged)
        stage.settle(std)
        return len(seen) == 1

    few = guiding(refinements=0, outcome_steps=20, guide_steps=20, student_steps=20)
    found = []
    for name in ("once", "again"):
        config = discover_config(base, tmp_path / name, method=few, num_codes=4)
        found.append(discover(config))
        monkeypatch.setattr("modereg.recipes.discover.choose_again", choose_once)
    assert seen == [256, 256]
    assert 256 <= found[1]["env_steps"] - found[0]["env_steps"] <= 256 * 24
    (kept,) = (tmp_path / "again").glob("paths-*.safetensors")
    with safe_open(kept, "pt") as file:
        assert json.loads(file.metadata()["about"])["figures"] == found[1]["sampled"]


def test_clusters_of_the_base_become_codes_that_command_them(clusters: Path, base: str) -> None:
    summary = read_summary(clusters)
    assert summary["method"] == "cluster"
    assert summary["refinements"] == 2
    assert summary["partition"]["suggested_modes"] >= 3
    assert summary["partition"]["held_out_accuracy"] > 0.7
    sampled = summary["sampled"]
    assert sampled["episodes"] == 256
    assert sampled["present_modes"] == 4
    assert sampled["success"] > 0.7
    assert sampled["bound"] > 0.5 * math.log(summary["partition"]["num_codes"])

    setup = set_up(TASK, base)
    rolled = collect_episodes(setup.steered(1, 1.0), 256, final=[keys.SUCCESS])
    assert sampled["success"] > float(rolled.final.get(keys.SUCCESS).float().mean()) + 0.1


def test_the_adapter_of_a_run_belongs_to_its_base(clusters: Path, base: str) -> None:
    policy = set_up(TASK, base).base
    adapter = load_adapter(clusters / "adapter", policy)
    summary = read_summary(clusters)
    assert adapter.base_reference == base
    assert adapter.extra == {
        "method": "cluster",
        "env_steps": summary["env_steps"],
        "commanded": summary["commanded_codes"],
        "base": adapter.extra["base"],
    }
    assert adapter.extra["base"]["episodes"] in (768, 1536)  # twice, where it shows much
    sizes = {"outcomes": adapter.prior.num_codes, "modes": 4}
    for name, size in sizes.items():
        shares = adapter.extra["base"][name]
        assert (len(shares), sum(shares)) == (size + 1, pytest.approx(1.0))
    assert adapter.prior.num_codes == summary["partition"]["num_codes"]
    assert adapter.estimator is not None


def test_environment_steps_of_stage_one_are_those_of_all_its_episodes(clusters: Path) -> None:
    rows = read_rows(clusters)
    steps = [int(float(row["env_steps"])) for row in rows]
    assert [row["phase"] for row in rows] == ["cluster", "fit", "refine", "refine"]
    assert steps[1] == steps[0]
    base = load_adapter(clusters / "adapter").extra["base"]["episodes"]
    assert base * 4 < steps[0] <= base * 24
    assert all(256 * 4 < late - early <= 256 * 24 for early, late in zip(steps[1:], steps[2:]))
    choosing = read_summary(clusters)["env_steps"] - steps[-1]  # which codes are worth steering
    assert 256 * 4 < choosing <= 2 * 256 * 24  # twice, where an earlier round is best


def test_the_curves_say_what_is_inferred_and_what_is_clipped(
    clusters: Path, variational: Path
) -> None:
    assert {"bound", "bound_share", "held_out_accuracy"} <= set(read_rows(clusters)[0])
    for row in read_rows(clusters)[2:]:
        assert set(HELD_OUT) <= set(row)
    for row in read_rows(variational):
        assert {f"q_{name}" for name in HELD_OUT[:4]} | {"clipped_share"} <= set(row)
    for folder in (clusters, variational):
        sampled = read_summary(folder)["sampled"]
        assert set(HELD_OUT) <= set(sampled)
        assert 0 <= sampled["aliased_codes"] <= 16
        assert sampled["bound_share"] <= 1.0


def test_discovery_by_reinforcement_learning(variational: Path, base: str) -> None:
    summary, rows = read_summary(variational), read_rows(variational)
    assert summary["method"] == "variational"
    assert len(rows) == 3
    assert len(summary["sampled"]["code_shares"]) == 5
    assert summary["deterministic"]["episodes"] == 256
    adapter = load_adapter(variational / "adapter", set_up(TASK, base).base)
    assert adapter.prior.num_codes == 5
    first = float(rows[0]["env_steps"])
    assert first > 64 * 4 * 3  # two rounds of base episodes, whose steps count, and a batch
    assert float(rows[-1]["env_steps"]) == summary["env_steps"]


def test_the_same_seed_finds_the_same_and_another_seed_does_not(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    discover(discover_config(base, tmp_path / "same", method=clustering(target=1.0)))
    for name in ("summary.json", "curves.csv", "adapter/modereg_model.safetensors"):
        assert (tmp_path / "same" / name).read_bytes() == (clusters / name).read_bytes()
    options = dict(seed=1, method=clustering(refinements=0, imitation_steps=5), num_codes=4)
    other = discover(discover_config(base, tmp_path / "other", **options))
    assert other["env_steps"] != read_summary(clusters)["env_steps"]
    assert other["partition"]["num_codes"] == 4
    assert "suggested_modes" not in other["partition"]


def test_refinements_stop_at_the_target(base: str, tmp_path: Path) -> None:
    options = dict(num_codes=4, method=clustering(target=0.0, imitation_steps=5))
    summary = discover(discover_config(base, tmp_path / "run", **options))
    assert summary["refinements"] == 0


def test_a_finished_run_is_not_run_again(clusters: Path, base: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in clusters.rglob("*")}
    again = discover(discover_config(base, clusters, method=clustering(target=1.0)))
    assert again == read_summary(clusters)
    assert before == {path: path.stat().st_mtime_ns for path in clusters.rglob("*")}


def test_too_few_episodes_are_answered_in_a_sentence(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="collect more, or give the number of codes"):
        discover(discover_config(base, tmp_path / "run", method=clustering(episodes=8)))


def test_global_settings_are_left_alone(clusters: Path) -> None:
    assert torch.get_num_threads() == 1
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("estimator", ["contrastive", "metra"])
def test_another_estimator_is_one_option(estimator: str, base: str, tmp_path: Path) -> None:
    """Its run discovers, is saved, and stage 2 takes it up and goes on learning it."""
    options = dict(method=by_reward(estimator=estimator, iterations=2), num_codes=3)
    summary = discover(discover_config(base, tmp_path / "stage1", **options))
    assert set(HELD_OUT) <= set(summary["sampled"])
    steps = summary["env_steps"] + 2000
    start = str(tmp_path / "stage1")
    tuned = finetune(finetune_config(base, tmp_path / "stage2", steps, start=start))
    assert {"q_loss", "q_bound"} <= set(read_rows(tmp_path / "stage2")[0])
    assert tuned["env_steps"] >= steps
