from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.errors import CheckpointError
from modereg.metrics import behaviour_metrics
from modereg.recipes.build import set_up
from modereg.recipes.config import EvaluateConfig, ProgressConfig
from modereg.recipes.evaluate import evaluate, evaluate_policy, judge
from tests.recipes.conftest import TASK


def test_episodes_are_judged_by_their_last_entries(tuned: Path, base: str) -> None:
    setup = set_up(TASK, base)
    adapter = load_adapter(tuned / "adapter", setup.base)
    env = setup.steered(adapter.prior, 1.0)
    options = dict(num_codes=adapter.prior.num_codes, episodes=100, estimator=adapter.estimator)
    metrics, episodes = evaluate_policy(setup, env, adapter.steering, seed=1, **options)
    final = episodes.final
    assert adapter.estimator is not None
    expected = behaviour_metrics(
        final.get(keys.SUCCESS).squeeze(-1),
        final.get(keys.LATENT),
        adapter.prior.num_codes,
        returns=episodes.returns,
        modes=final.get(keys.MODE).squeeze(-1),
        num_modes=4,
        predicted_codes=adapter.estimator.log_prob(final).argmax(-1),
    )
    assert metrics == expected == judge(setup, episodes, options["num_codes"], adapter.estimator)
    same, _ = evaluate_policy(setup, env, adapter.steering, seed=1, **options)
    other, _ = evaluate_policy(setup, env, adapter.steering, seed=2, **options)
    assert metrics == same
    assert metrics.mean_return != other.mean_return


def test_torchs_generator_is_left_as_it_was(base: str) -> None:
    setup = set_up(TASK, base)
    env = setup.steered(1, 1.0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate_policy(setup, env, None, num_codes=1, episodes=10, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_on_another_base_and_no_run_are_refused(
    tuned: Path, base: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        evaluate(EvaluateConfig(base=base, run=str(tmp_path), task=TASK, episodes=8))
    with pytest.raises(CheckpointError, match="load that base, or run discovery again"):
        evaluate(
            EvaluateConfig(base="tests.recipes.tiny:policy", run=str(tuned), task=TASK, episodes=8)
        )


def test_progress_is_shown_unless_it_is_left_out(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(base=base, task=TASK, episodes=96)
    found = evaluate(config)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("evaluate, base: 64/96 (67%)")
    assert last.startswith("evaluate, base: 96/96 (100%)")
    assert evaluate(replace(config, log=ProgressConfig(progress=False))) == found
    assert capsys.readouterr().err == ""
