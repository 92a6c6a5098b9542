"""Runs that steer in a subspace of the noise: chosen once, and read from the run ever after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modereg.checkpoints import load_adapter, save_adapter
from modereg.cli import main
from modereg.errors import ConfigurationError
from modereg.noise_bases import cosine_basis, repeated_basis
from modereg.recipes.config import EvaluateConfig, NoiseConfig
from modereg.recipes.evaluate import evaluate
from modereg.recipes.events import Advanced, drain
from modereg.recipes.follow import discover, finetune, follow
from modereg.recipes.setup import set_up
from modereg.recipes.subspace import choose_subspace, load_run
from modereg.report import ReportEntry, record_paths
from modereg.report.episodes import steering_of
from modereg.storage import load_state, save_state
from tests.recipes.conftest import (
    BATCH_STEPS,
    TASK,
    by_reward,
    clustering,
    discover_config,
    finetune_config,
    read_rows,
    read_summary,
)

RESPONSE = NoiseConfig(basis="response", rank=3)
WEIGHTS = "adapter/modereg_model.safetensors"


def basis_of(folder: Path) -> Tensor | None:
    """Return the basis that a run's adapter has."""
    return load_adapter(folder / "adapter").layout.noise_basis


@pytest.fixture(scope="module")
def plain(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of plain fine-tuning in a subspace."""
    out = tmp_path_factory.mktemp("plain") / "run"
    finetune(finetune_config(base, out, 4000, noise=RESPONSE, std=None))
    return out


@pytest.fixture(scope="module")
def found(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of stage 1 in a subspace."""
    out = tmp_path_factory.mktemp("found") / "run"
    method = clustering(refinements=1, episodes=512)
    discover(discover_config(base, out, method=method, noise=NoiseConfig(basis="response")))
    return out


def test_the_adapter_has_the_subspace_that_its_steering_is_of(plain: Path) -> None:
    adapter = load_adapter(plain / "adapter")
    basis = adapter.layout.noise_basis
    assert basis is not None
    assert basis.shape == (8, 3)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3), atol=1e-5, rtol=0)
    assert adapter.steering.noise_shape == (3,)
    first, second = read_rows(plain)[:2]
    assert (first["phase"], first["noise_dimensions"]) == ("subspace", "3")
    assert 0.3 < float(first["noise_share"]) < 1.0
    assert 0 < int(first["env_steps"]) <= BATCH_STEPS
    # the episodes behind it are counted, those that standardise the inputs, and the first batch
    assert int(second["env_steps"]) > 2 * int(first["env_steps"])


def test_evaluate_steers_as_the_run_did(plain: Path) -> None:
    judged, summary = evaluate(EvaluateConfig(run=str(plain), episodes=128, seed=20_000)), None
    summary = read_summary(plain)
    for how in ("sampled", "deterministic"):
        assert judged[how] == summary[how]


def test_a_page_shows_each_run_in_its_own_subspace(plain: Path, tuned: Path, base: str) -> None:
    setup = set_up(TASK, base)
    for folder, size in ((plain, 3), (tuned, None)):
        entry = ReportEntry(folder.name, "a run", folder, read_summary(folder))
        stage, steering, prior = steering_of(setup, entry)
        basis = stage.layout.noise_basis
        assert (None if basis is None else basis.shape[1]) == size
        assert len(record_paths(stage, steering, prior, num_episodes=8, seed=1)) == 8
    assert setup.layout.noise_basis is None


def test_the_seed_decides_and_nothing_else(plain: Path, base: str, tmp_path: Path) -> None:
    again = finetune_config(base, tmp_path / "again", 4000, noise=RESPONSE, std=None)
    torch.manual_seed(99)
    finetune(again)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    finetune(replace(again, out=tmp_path / "other", seed=1))
    ours, theirs = basis_of(plain), basis_of(tmp_path / "other")
    assert ours is not None
    assert theirs is not None
    assert not torch.equal(ours, theirs)


def test_the_other_draws_of_a_run_stay_the_same(base: str) -> None:
    setup = set_up(TASK, base)
    before = torch.get_rng_state()
    chosen = drain(choose_subspace(setup, RESPONSE, 0, None))
    assert torch.equal(torch.get_rng_state(), before)
    assert (setup.layout.noise_basis, setup.spent) == (None, 0)
    assert 64 <= chosen.spent <= BATCH_STEPS


@pytest.mark.parametrize("stage", ["finetune", "clusters", "variational"])
def test_a_resumed_run_keeps_what_its_checkpoint_has(stage: str, base: str, tmp_path: Path) -> None:
    """Interrupted once, with another basis put into the checkpoint: no run finds that one anew."""
    config: Any = {
        "finetune": finetune_config(base, tmp_path, 5000, noise=RESPONSE, std=None),
        "clusters": discover_config(
            base,
            tmp_path,
            noise=RESPONSE,
            num_codes=4,
            method=clustering(refinements=1, episodes=256),
        ),
        "variational": discover_config(
            base, tmp_path, noise=RESPONSE, num_codes=2, method=by_reward(iterations=2)
        ),
    }[stage]
    for event in follow(config):
        if isinstance(event, Advanced) and event.state is not None:
            break
    state = load_state(tmp_path / "checkpoint.pt")
    mine = torch.linalg.qr(torch.randn(8, 3)).Q
    assert state["state"]["noise_basis"].shape == (8, 3)
    state["state"]["noise_basis"] = mine
    save_state(tmp_path / "checkpoint.pt", state)
    (discover if stage != "finetune" else finetune)(replace(config, resume=True))
    kept = basis_of(tmp_path)
    assert kept is not None
    assert torch.equal(kept, mine)
    assert [row.get("phase") for row in read_rows(tmp_path)].count("subspace") == 1


def test_stage_two_steers_where_stage_one_did(found: Path, base: str, tmp_path: Path) -> None:
    first = load_adapter(found / "adapter")
    assert first.layout.noise_basis is not None
    assert first.steering.noise_shape == first.layout.noise_basis.shape[1:]
    assert read_summary(found)["env_steps"] == first.extra["env_steps"]
    for regulariser in ("discovered", "scratch"):
        out = tmp_path / regulariser
        steps = first.extra["env_steps"] + 2500
        config = finetune_config(base, out, steps, start=str(found), std=None)
        finetune(replace(config, regulariser=regulariser))
        basis = basis_of(out)
        assert basis is not None
        assert torch.equal(basis, first.layout.noise_basis)


def test_a_start_has_a_subspace_of_its_own(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"start or noise.basis.*runs/a steers; leave"):
        finetune_config(base, tmp_path, 10, start="runs/a", noise=RESPONSE)


def test_an_adapter_of_another_layout_is_refused_whatever_its_subspace(
    plain: Path, base: str, tmp_path: Path
) -> None:
    setup = set_up(replace(TASK, execute=2), base)
    with pytest.raises(ConfigurationError, match="another layout .*execute 4 and 2;") as caught:
        load_run(plain, setup)
    assert "noise_basis" not in str(caught.value)
    adapter = load_adapter(plain / "adapter")
    other = torch.linalg.qr(torch.randn(8, 3)).Q
    save_adapter(tmp_path, replace(adapter, layout=replace(adapter.layout, noise_basis=other)))
    with pytest.raises(ConfigurationError, match="noise_basis of shape .* and another of shape"):
        load_adapter(tmp_path, layout=adapter.layout)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (NoiseConfig(), None),
        (NoiseConfig("repeated"), repeated_basis((4, 2))),
        (NoiseConfig("cosine"), cosine_basis((4, 2), 3)),
        (NoiseConfig("cosine", rank=3), cosine_basis((4, 2), 2)[:, :3]),
        (NoiseConfig("cosine", rank=8), cosine_basis((4, 2), 4)),
    ],
)
def test_what_needs_no_looking(noise: NoiseConfig, expected: Tensor | None, base: str) -> None:
    setup = drain(choose_subspace(set_up(TASK, base), noise, 0, None))
    basis = setup.layout.noise_basis
    assert setup.spent == 0
    assert basis is None if expected is None else torch.equal(basis, expected)


def test_more_dimensions_than_the_noise_has(base: str) -> None:
    for name in ("cosine", "response"):
        with pytest.raises(ConfigurationError, match=r"at most 8|in \[1, 4\]"):
            drain(choose_subspace(set_up(TASK, base), NoiseConfig(name, 9), 0, None))


@pytest.mark.parametrize("name", ["all", "repeated"])
def test_a_rank_that_nothing_reads_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"noise.rank with .* got {name}, which"):
        NoiseConfig(name, rank=3)


def test_the_command_line(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = f"""finetune --base {base} --out {out} --task.name task:gaussian_mixture
        --task.num-envs 8 --env-steps 300 --final-episodes 8 --no-page --log.no-tensorboard
        --log.no-progress --noise.basis cosine --noise.rank 4"""
    assert main(words.split()) == 0
    basis = basis_of(out)
    assert basis is not None
    assert torch.equal(basis, cosine_basis((4, 2), 2))
    assert main([*words.split(), "--noise.rank", "2"]) == 1
    assert "noise.rank 4 there, 2 here" in capsys.readouterr().err
    assert main(["evaluate", "--run", str(out), "--episodes", "8"]) == 0
