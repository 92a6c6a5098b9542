from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.errors import CheckpointError, ConfigurationError
from modereg.metrics import behaviour_metrics
from modereg.recipes.config import EvaluateConfig, ProgressConfig, TaskConfig
from modereg.recipes.evaluate import evaluate, evaluate_policy, judge, worse_than_start
from modereg.recipes.setup import set_up
from tests.recipes.conftest import TASK


def test_episodes_are_judged_by_their_last_entries(tuned: Path, base: str) -> None:
    setup = set_up(TASK, base)
    adapter = load_adapter(tuned / "adapter", setup.base, setup.layout)
    env = setup.steered(adapter.prior, 1.0)
    options = dict(num_codes=adapter.prior.num_codes, episodes=100, estimator=adapter.estimator)
    figures, episodes = evaluate_policy(setup, env, adapter.steering, seed=1, **options)
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
    assert expected == judge(setup, episodes, options["num_codes"], adapter.estimator)
    assert expected.to_dict().items() <= figures.items()
    assert figures["clipped_share"] == episodes.clipped
    same, _ = evaluate_policy(setup, env, adapter.steering, seed=1, **options)
    other, _ = evaluate_policy(setup, env, adapter.steering, seed=2, **options)
    assert figures == same
    assert figures["mean_return"] != other["mean_return"]


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
    with pytest.raises(ConfigurationError, match="a run folder with config.yaml, got .* without"):
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
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("evaluate, sampled: 100%")
    assert "96/96" in last
    assert evaluate(replace(config, log=ProgressConfig(progress=False))) == found
    assert capsys.readouterr().err == ""


def test_of_a_run_only_what_is_named_differs(tuned: Path) -> None:
    """Fewer environments are other episodes of the same task."""
    config = EvaluateConfig(run=str(tuned), episodes=32, log=ProgressConfig(progress=False))
    found = evaluate(config)
    other = evaluate(replace(config, task=TaskConfig(num_envs=8)))
    assert found["task"] == other["task"] == "gaussian_mixture"
    assert found["sampled"]["episodes"] == other["sampled"]["episodes"] == 32
    assert found["sampled"] != other["sampled"]


@pytest.mark.parametrize(
    "changes", [{"execute": 2}, {"feature_dims": (0,)}, {"steering_keys": ("observation", "mode")}]
)
def test_a_run_is_not_judged_on_another_layout(tuned: Path, changes: dict) -> None:
    name = next(iter(changes))
    with pytest.raises(ConfigurationError, match=f"made on another layout than .*: {name} "):
        evaluate(EvaluateConfig(run=str(tuned), episodes=8, task=TaskConfig(**changes)))


def test_what_ends_worse_than_where_it_began_says_so() -> None:
    """Success by two standard errors of the difference, here .0283; modes by their number."""
    start = {"success": 0.9, "success_error": 0.01, "present_modes": 6, "commandable_modes": 4}
    assert worse_than_start(start, start) == []
    assert worse_than_start(start, start | {"success": 0.8718, "commandable_modes": 5}) == []
    assert worse_than_start(start, start | {"success": 0.871, "commandable_modes": 3}) == [
        "Worse than its start: success 0.871 beside 0.900",
        "Worse than its start: 3 modes commandable beside 4",
    ]
    without_labels = {"success": None, "present_modes": None}
    assert worse_than_start(without_labels, start) == worse_than_start({}, start) == []
