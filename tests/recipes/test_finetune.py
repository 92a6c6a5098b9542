from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modereg import keys
from modereg.balances.config import (
    BalanceConfig,
    BoundConfig,
    ConstantConfig,
    GateConfig,
    MultiplierConfig,
)
from modereg.checkpoints import load_adapter, save_adapter
from modereg.commanding import CommandedPolicy
from modereg.commands.modes import export
from modereg.errors import CheckpointError, ConfigurationError
from modereg.files import write_json
from modereg.learners.config import (
    DemonstratedConfig,
    DPPOConfig,
    DSRLConfig,
    LearnerConfig,
    PPOConfig,
    QF3Config,
    ResFiTConfig,
    ResidualConfig,
    ResiPConfig,
    SACConfig,
)
from modereg.recipes.config import EvaluateConfig, ExportConfig, FinetuneConfig, from_yaml
from modereg.recipes.evaluate import evaluate
from modereg.recipes.events import Advanced
from modereg.recipes.follow import finetune, follow, pretrain
from modereg.storage import load_state, save_state
from modereg.tasks import GaussianMixture
from modereg_integrations.diffusers import DiffusersPolicy
from tests.recipes.conftest import (
    BATCH_STEPS,
    TASK,
    finetune_config,
    pretrain_config,
    read_rows,
    read_summary,
)

JUDGED = ("success", "entropy", "present_modes", "commandable_modes", "effective_codes")
HELD_OUT = ("bound", "bound_share", "held_out_accuracy", "aliased_codes", "clipped_share")


def test_environment_steps_begin_where_stage_one_ended(tuned: Path, clusters: Path) -> None:
    spent, rows = read_summary(clusters)["env_steps"], read_rows(tuned)
    steps = [spent, *(int(float(row["env_steps"])) for row in rows)]
    # every environment plays 6 chunks of up to 4 steps
    assert all(64 * 6 < late - early <= BATCH_STEPS for early, late in zip(steps, steps[1:]))
    assert steps[-1] == read_summary(tuned)["env_steps"]
    assert steps[-2] < spent + 4000 <= steps[-1]
    extra = load_adapter(tuned / "adapter").extra
    assert (extra["method"], extra["env_steps"]) == ("finetune", steps[-1])
    assert extra["base"] == load_adapter(clusters / "adapter").extra["base"]


def test_the_curves_say_what_is_paid_inferred_and_clipped(tuned: Path) -> None:
    rows = read_rows(tuned)
    for place, row in enumerate(rows):
        assert {"reward", "mi_reward", "clipped_share", "loss_kl", "noise_entropy"} <= set(row)
        judged = (place + 1) % 2 == 0
        for name in (*JUDGED, *HELD_OUT[:4]):
            assert (name in row) == judged, name
        assert abs(float(row["mi_reward"])) <= 1.0
        if judged:
            share = float(row["bound"]) / float(row["bound_share"])
            assert math.exp(share) == pytest.approx(load_adapter(tuned / "adapter").prior.num_codes)
            assert 0.0 <= float(row["entropy"]) <= 1.0
    for how in ("sampled", "deterministic"):
        assert set(HELD_OUT) | set(JUDGED) <= set(read_summary(tuned)[how])


def test_fine_tuning_on_the_clusters_keeps_success_and_modes(tuned: Path, clusters: Path) -> None:
    sampled, before = read_summary(tuned)["sampled"], read_summary(clusters)["sampled"]
    assert sampled["success"] >= before["success"] - 0.08  # of 128 episodes
    assert sampled["present_modes"] == 4
    assert read_summary(tuned)["deterministic"]["success"] > 0.8


@pytest.mark.parametrize("kind", [SACConfig, DSRLConfig])
def test_learners_with_a_buffer_go_on_from_stage_one(
    kind: type[SACConfig], clusters: Path, base: str, tmp_path: Path
) -> None:
    spent = read_summary(clusters)["env_steps"]
    learner = kind(decisions=3, prefill=192, minibatch=64, updates=0.5)
    start = {"start": str(clusters), "learner": learner}
    tune = finetune_config(base, tmp_path / "a", spent + 3000, **start)
    summary = finetune(tune)
    rows = read_rows(tmp_path / "a")
    assert all({"loss_qvalue", "mi_reward"} <= set(row) for row in rows)
    assert ["loss_actor" in row for row in rows] == [False, *[True] * (len(rows) - 1)]
    assert len(rows) > 2
    assert summary["sampled"]["present_modes"] == 4
    assert summary["worse_than_base"] == []
    assert read_summary(tmp_path / "a")["env_steps"] == summary["env_steps"]


@pytest.mark.parametrize("kind", [DSRLConfig, ResidualConfig, ResFiTConfig])
def test_what_was_recorded_is_learned_from_beside_what_is_collected(
    kind: type[DemonstratedConfig], cloned: Path, tmp_path: Path
) -> None:
    shown = cloned / "demonstrations.safetensors"
    learner = kind(decisions=3, prefill=192, minibatch=64, updates=0.2, demonstrations=shown)
    tune = finetune_config(str(cloned / "policy"), tmp_path, 3000, learner=learner)
    summary = finetune(tune)
    assert {"loss_qvalue", "loss_actor"} <= set(read_rows(tmp_path)[-1])
    assert summary["env_steps"] < 4000, "they cost no steps"
    assert from_yaml(FinetuneConfig, (tmp_path / "config.yaml").read_text()) == tune


def test_a_residual_is_learned_and_saved_beside_the_steering_policy_of_stage_one(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    """Sampled and deterministic, evaluated and commanded: what was learned is what is played."""
    spent, out = read_summary(clusters)["env_steps"], tmp_path / "a"
    small = ResidualConfig(decisions=6, prefill=384, minibatch=64, updates=0.1, explore=384)
    start = {"start": str(clusters), "learner": small, "std": None}
    summary = finetune(finetune_config(base, out, spent + 8000, **start))
    before, adapter = load_adapter(clusters / "adapter"), load_adapter(out / "adapter")
    steering = adapter.steering.state_dict()
    assert all(torch.equal(steering[name], v) for name, v in before.steering.state_dict().items())
    assert before.residual is None
    assert adapter.residual is not None
    rows = read_rows(out)
    assert 0.0 < float(rows[-1]["residual_length"]) < 1.0
    judged = evaluate(EvaluateConfig(run=str(out), out=tmp_path, episodes=128, seed=20_000))
    for how in ("sampled", "deterministic"):
        assert judged[how] == summary[how]
    root = GaussianMixture(3, seed=0).reset()
    policy = DiffusersPolicy.from_pretrained(base)
    with_it, without = (CommandedPolicy(policy, part, 1) for part in (adapter, before))
    chunk = with_it.decode(root)
    assert not torch.equal(chunk, without.decode(root))
    root.set(keys.LATENT_FEATURES, torch.eye(adapter.prior.num_codes)[[1, 1, 1]])
    torch.testing.assert_close(chunk, adapter.residual(root, without.decode(root)))

    shorter = finetune_config(base, tmp_path / "b", spent + 7000, **start)
    finetune(shorter)
    finetune(replace(shorter, env_steps=spent + 8000, resume=True))
    name = "adapter/modereg_model.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes()


def test_a_residual_of_steps_is_learned_and_saved_beside_the_steering_policy_of_stage_one(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    spent, out = read_summary(clusters)["env_steps"], tmp_path / "a"
    start = {"start": str(clusters), "learner": ResiPConfig(epochs=2), "std": None}
    summary = finetune(finetune_config(base, out, spent + 3000, **start))
    before, adapter = load_adapter(clusters / "adapter"), load_adapter(out / "adapter")
    steering = adapter.steering.state_dict()
    assert all(torch.equal(steering[name], v) for name, v in before.steering.state_dict().items())
    assert before.step_residual is None
    judged = evaluate(EvaluateConfig(run=str(out), out=tmp_path, episodes=128, seed=20_000))
    for how in ("sampled", "deterministic"):
        assert judged[how] == summary[how]
    export(ExportConfig(str(out), ("0",), tmp_path / "ship"))
    policy = CommandedPolicy(DiffusersPolicy.from_pretrained(base), tmp_path / "ship")
    root = GaussianMixture(3, seed=0).reset()
    action = policy.decode(root)[:, 0]
    assert not torch.equal(policy.corrected(root, action), action)

    shorter = finetune_config(base, tmp_path / "b", spent + 1500, **start)
    finetune(shorter)
    finetune(replace(shorter, env_steps=spent + 3000, resume=True))
    name = "adapter/modereg_model.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes()
    noise = {"start": str(out), "learner": PPOConfig(epochs=1)}
    finetune(finetune_config(base, tmp_path / "c", summary["env_steps"] + 1000, **noise))
    kept, was = (load_adapter(folder / "adapter").step_residual for folder in (tmp_path / "c", out))
    assert all(torch.equal(kept.state_dict()[name], v) for name, v in was.state_dict().items())


@pytest.mark.parametrize(
    "learner",
    [
        DPPOConfig(epochs=2, steps=2),
        QF3Config(decisions=3, prefill=192, minibatch=64, updates=0.1, steps=2, lora_rank=4),
    ],
)
def test_weights_are_learned_and_saved_behind_the_steering_policy_of_stage_one(
    learner: LearnerConfig, clusters: Path, base: str, tmp_path: Path
) -> None:
    """Evaluated, commanded and gone on from: what was learned is what is played."""
    spent, out = read_summary(clusters)["env_steps"], tmp_path / "a"
    start = {"start": str(clusters), "learner": learner, "std": None}
    summary = finetune(finetune_config(base, out, spent + 3000, **start))
    assert summary["sampled"]["present_modes"] == 4
    before, adapter = load_adapter(clusters / "adapter"), load_adapter(out / "adapter")
    steering = adapter.steering.state_dict()
    assert all(torch.equal(steering[name], v) for name, v in before.steering.state_dict().items())
    assert adapter.tuned is not None
    assert not (out / "policy").exists(), "the first of three steps is the base's"
    judged = evaluate(EvaluateConfig(run=str(out), out=tmp_path, episodes=128, seed=20_000))
    for how in ("sampled", "deterministic"):
        assert judged[how] == summary[how]
    root, policy = GaussianMixture(3, seed=0).reset(), DiffusersPolicy.from_pretrained(base)
    chunks = [CommandedPolicy(policy, part, 1).decode(root) for part in (adapter, before)]
    assert not torch.equal(*chunks)
    export(ExportConfig(str(out), ("0",), tmp_path / "ship"))
    found = CommandedPolicy(policy, tmp_path / "ship").decode(root)
    assert torch.equal(found, CommandedPolicy(policy, adapter, 0).decode(root))

    shorter = finetune_config(base, tmp_path / "b", spent + 1500, **start)
    finetune(shorter)
    finetune(replace(shorter, env_steps=spent + 3000, resume=True))
    name = "adapter/modereg_model.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes()
    noise = {"start": str(out), "learner": PPOConfig(epochs=1)}
    finetune(finetune_config(base, tmp_path / "c", summary["env_steps"] + 1000, **noise))
    kept = load_adapter(tmp_path / "c" / "adapter").tuned
    assert all(torch.equal(kept.weights[name], v) for name, v in adapter.tuned.weights.items())


@pytest.mark.parametrize("rank", [None, 4])
def test_all_steps_make_a_policy_of_its_own_library(
    rank: int | None, base: str, tmp_path: Path
) -> None:
    learner = DPPOConfig(epochs=1, lora_rank=rank)
    tuned = finetune_config(base, tmp_path / "a", 3000, std=None, learner=learner)
    summary = finetune(tuned)
    policy = str(tmp_path / "a" / "policy")
    judged = evaluate(EvaluateConfig(base=policy, task=tuned.task, episodes=128, seed=20_000))
    assert judged["sampled"]["success"] == summary["sampled"]["success"]
    before, after = (DiffusersPolicy.from_pretrained(folder) for folder in (base, policy))
    assert set(before.state_dict()) == set(after.state_dict())
    assert after.fingerprint() != before.fingerprint()
    numbers = load_adapter(tmp_path / "a" / "adapter").tuned.weights.values()
    whole = sum(value.numel() for value in before.parameters())
    assert sum(value.numel() for value in numbers) < whole or rank is None


def test_a_run_that_ends_before_anything_was_learned_says_so(base: str, tmp_path: Path) -> None:
    tune = finetune_config(base, tmp_path / "a", 2000, learner=SACConfig(decisions=2))
    with pytest.warns(UserWarning, match=r"nothing was learned: only \d+% of the decisions were"):
        finetune(tune)


@pytest.mark.parametrize("of", ["code", "mode"])
def test_a_run_that_is_worse_than_the_base_says_so(
    of: str, tuned: Path, clusters: Path, base: str, tmp_path: Path
) -> None:
    """As one is whose base never failed, by what stage 1 saw of it.

    Behaviours are told apart by the label, where there is one: of several codes that show one mode
    none is missed.
    """
    assert read_summary(tuned)["worse_than_base"] == []
    shutil.copytree(clusters, tmp_path / "start")
    adapter = load_adapter(tmp_path / "start" / "adapter")
    number = len(adapter.extra["base"]["outcomes"])
    never, always = [0.0] * (number - 1) + [1.0], [1.0] + [0.0] * (number - 1)
    by_label = {"outcomes": never, "modes": [1.0, 0.0, 0.0, 0.0, 0.0]}
    told = {"outcomes": always, "modes": None} if of == "code" else by_label
    adapter.extra["base"] = told | {"episodes": 4000}
    save_adapter(tmp_path / "start" / "adapter", adapter)
    spent = read_summary(clusters)["env_steps"]
    tune = finetune_config(base, tmp_path / "b", spent + 1, start=str(tmp_path / "start"))
    with pytest.warns(UserWarning, match="Worse than the base: success"):
        summary = finetune(tune)
    assert summary["worse_than_base"][0].startswith("Worse than the base: success 0.")
    assert summary["worse_than_base"] == read_summary(tmp_path / "b")["worse_than_base"]


def test_a_run_that_is_worse_than_its_start_says_so(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    shutil.copytree(clusters, tmp_path / "start")
    summary = read_summary(clusters)
    summary["sampled"] |= {"success": 1.0, "success_error": 0.0, "commandable_modes": 5}
    write_json(tmp_path / "start" / "summary.json", summary)
    tune = finetune_config(
        base, tmp_path / "b", summary["env_steps"] + 1, start=str(tmp_path / "start")
    )
    with pytest.warns(UserWarning, match="Worse than its start: . modes commandable beside 5"):
        found = finetune(tune)
    assert found["worse_than_start"][0].startswith("Worse than its start: success 0.")
    assert found["worse_than_start"] == read_summary(tmp_path / "b")["worse_than_start"]


@pytest.mark.parametrize("seed", [0])
def test_evaluate_says_what_the_run_said(tuned: Path, seed: int, tmp_path: Path) -> None:
    """Task, layout and base are those of the run, and so are the figures."""
    judge = EvaluateConfig(run=str(tuned), out=tmp_path, episodes=128, seed=seed + 20_000)
    found, summary = evaluate(judge), read_summary(tuned)
    for how in ("sampled", "deterministic"):
        assert found[how] == summary[how]
    assert (tmp_path / "evaluation.json").exists()
    other = evaluate(replace(judge, seed=3, out=None))
    assert other["sampled"]["mean_return"] != summary["sampled"]["mean_return"]


def test_evaluating_the_base_itself(base: str) -> None:
    found = evaluate(EvaluateConfig(base=base, task=TASK, episodes=128))
    assert set(found) == {"base", "run", "task", "sampled"}
    assert 0.1 < found["sampled"]["success"] < 0.9
    assert found["sampled"]["present_modes"] == 4
    assert found["sampled"]["effective_codes"] is None


def test_evaluations_do_not_change_what_is_trained(
    tuned: Path, clusters: Path, base: str, tmp_path: Path
) -> None:
    start = read_summary(clusters)["env_steps"]
    config = finetune_config(base, tmp_path / "run", start + 4000, start=str(clusters))
    finetune(replace(config, eval_every=100))
    name = "adapter/modereg_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tuned / name).read_bytes()


def test_plain_fine_tuning_is_one_code_and_no_intrinsic_reward(base: str, tmp_path: Path) -> None:
    summary = finetune(finetune_config(base, tmp_path / "run", 3000, std=None))
    rows = read_rows(tmp_path / "run")
    assert "mi_reward" not in rows[0]
    assert "bound" not in summary["sampled"]
    assert summary["sampled"]["code_shares"] == [1.0]
    assert summary["sampled"]["success"] is not None
    adapter = load_adapter(tmp_path / "run" / "adapter")
    assert (adapter.prior.num_codes, adapter.estimator) == (1, None)
    # the episodes of the base that standardise the observations count too
    assert 64 * 4 < float(rows[0]["env_steps"]) - BATCH_STEPS * 0.9 < 64 * 24


def test_a_frozen_discoverer_stays_and_an_online_one_learns(
    tuned: Path, clusters: Path, base: str, tmp_path: Path
) -> None:
    def estimator(folder: Path) -> dict[str, torch.Tensor]:
        found = load_adapter(folder / "adapter").estimator
        assert found is not None
        return found.state_dict()

    frozen, before = estimator(tuned), estimator(clusters)
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    start = read_summary(clusters)["env_steps"]
    finetune(
        finetune_config(
            base, tmp_path / "run", start + 2000, start=str(clusters), discoverer="online"
        )
    )
    online = estimator(tmp_path / "run")
    assert any(not torch.equal(online[name], before[name]) for name in before)
    assert "q_bound" in read_rows(tmp_path / "run")[0]


def test_after_the_papers_stage_one_the_discoverer_keeps_learning(
    variational: Path, base: str, tmp_path: Path
) -> None:
    start = read_summary(variational)["env_steps"]
    config = finetune_config(base, tmp_path / "run", start + 1000, start=str(variational))
    summary = finetune(config)
    assert {"q_loss", "q_bound", "q_aliased_codes"} <= set(read_rows(tmp_path / "run")[0])
    assert len(summary["sampled"]["code_shares"]) == 5


def test_from_scratch_the_steering_policy_begins_at_the_base(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    start = read_summary(clusters)["env_steps"]
    config = finetune_config(
        base, tmp_path / "run", start + 3000, start=str(clusters), regulariser="scratch", std=None
    )
    frozen = replace(config.learner, learning_rate=1e-30, std_learning_rate=1e-30)
    summary = finetune(replace(config, learner=frozen))
    untouched = load_adapter(tmp_path / "run" / "adapter").steering.requires_grad_(False)
    assert all(float(p.abs().max()) < 1e-9 for p in untouched.head.log_std.parameters())
    assert float(untouched.head.network.layers[-1].weight.abs().max()) < 1e-9
    assert summary["sampled"]["success"] < 0.9  # that is the base


def test_steps_that_stage_one_took_already_are_no_budget(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    taken = read_summary(clusters)["env_steps"]
    config = finetune_config(base, tmp_path / "run", taken, start=str(clusters), std=None)
    with pytest.warns(UserWarning, match=f"Nothing is learned: expected env_steps .* got {taken}"):
        finetune(config)


def test_codes_from_nothing_with_an_online_discoverer(base: str, tmp_path: Path) -> None:
    config = finetune_config(base, tmp_path / "run", 3500, num_codes=3, std=None)
    summary = finetune(config)
    assert len(summary["sampled"]["code_shares"]) == 3
    q = load_adapter(tmp_path / "run" / "adapter").estimator.network.module
    assert q.std == pytest.approx(0.25)  # the task's own, in its units
    assert bool((q.network.features.scale != 1).all())
    assert "mi_reward" in read_rows(tmp_path / "run")[0]


def test_the_coefficient_decides_what_is_maximised(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    start = read_summary(clusters)["env_steps"]
    rows = {}
    for coef in (0.0, 0.3):
        out = tmp_path / str(coef)
        config = finetune_config(
            base, out, start + 500, start=str(clusters), balance=ConstantConfig(coef)
        )
        finetune(config)
        rows[coef] = read_rows(out)[0]
    assert rows[0.0]["mi_reward"] == rows[0.3]["mi_reward"]  # paid out, not counted
    assert rows[0.0]["loss_critic"] != rows[0.3]["loss_critic"]


@pytest.mark.parametrize("balance", [MultiplierConfig(rate=0.1), BoundConfig(), GateConfig()])
def test_a_balance_goes_on_after_an_interruption(
    balance: BalanceConfig, clusters: Path, base: str, tmp_path: Path
) -> None:
    """With weights that move, and curves that say so; in the middle of episodes."""
    learner = PPOConfig(epochs=1, decisions=4)
    steps = read_summary(clusters)["env_steps"] + 7000
    start = {"start": str(clusters), "learner": learner, "balance": balance}
    config = finetune_config(base, tmp_path / "whole", steps, **start)
    config = replace(config, eval_every=100)
    finetune(config)
    again = replace(config, out=tmp_path / "again")
    events, saved = follow(again), 0
    while not saved:
        event = next(events)
        saved += isinstance(event, Advanced) and event.state is not None
    events.close()
    finetune(replace(again, resume=True))
    for name in ("curves.csv", "adapter/modereg_model.safetensors", "summary.json"):
        assert (again.out / name).read_bytes() == (config.out / name).read_bytes(), name
    rows = read_rows(config.out)
    assert len(rows) > 6
    for row in rows:
        assert 0 < float(row["return_scale"]) < 2.0
        if balance.name != "bound":
            assert float(row["coef_min"]) <= float(row["coef"]) <= float(row["coef_max"])
    assert len({row["coef"] for row in rows}) > (balance.name != "gate")


def test_a_checkpoint_of_before_there_were_balances_does_not_go_on(
    clusters: Path, base: str, tmp_path: Path
) -> None:
    steps = read_summary(clusters)["env_steps"] + 7000
    config = finetune_config(base, tmp_path / "run", steps, start=str(clusters))
    events = follow(config)
    while not (isinstance(event := next(events), Advanced) and event.state is not None):
        pass
    events.close()
    state = load_state(tmp_path / "run" / "checkpoint.pt")
    del state["state"]["balance"]
    save_state(tmp_path / "run" / "checkpoint.pt", state)
    with pytest.raises(CheckpointError, match="made before there were any; begin the run again"):
        finetune(replace(config, resume=True))


def test_the_discount_of_training_does_not_reach_the_evaluation(
    tuned: Path, clusters: Path, base: str, tmp_path: Path
) -> None:
    start, out = read_summary(clusters)["env_steps"], tmp_path / "run"
    still = PPOConfig(learning_rate=1e-30, std_learning_rate=1e-30)
    options = dict(start=str(clusters), learner=still, std=None, task=replace(TASK, gamma=0.5))
    summary = finetune(finetune_config(base, out, start + 500, **options))["sampled"]
    # goals pay .7 to 1.3, once, at the end: discounted within a chunk it would be far less
    assert summary["mean_return"] >= 0.7 * summary["success"]
    judge = EvaluateConfig(run=str(out), episodes=128, seed=20_000)
    assert evaluate(judge)["sampled"] == summary


def test_an_adapter_of_another_base_is_refused(clusters: Path, base: str, tmp_path: Path) -> None:
    pretrain(pretrain_config(tmp_path / "base", seed=1, steps=2))
    config = finetune_config(
        str(tmp_path / "base" / "policy"), tmp_path / "run", 10**6, start=str(clusters)
    )
    with pytest.raises(CheckpointError, match=f"steers the base policy '{base}'"):
        finetune(config)


def test_a_start_without_an_adapter_is_named(base: str, tmp_path: Path) -> None:
    config = finetune_config(base, tmp_path / "run", 10**6, start=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"a finished run of discover .*nowhere without"):
        finetune(config)


def test_a_payment_at_the_end_needs_a_time_limit_that_terminates(tmp_path: Path) -> None:
    task = replace(TASK, name="gymnasium:Pendulum-v1", num_envs=2)
    config = finetune_config(
        "tests.recipes.pendulum:policy", tmp_path / "run", 10, num_codes=2, timing="final",
        task=task,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="final.*truncat"):
        finetune(config)
