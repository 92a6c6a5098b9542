from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from modereg import keys
from modereg.checkpoints import load_adapter
from modereg.errors import CheckpointError
from modereg.estimators import CategoricalMI
from modereg.metrics import behaviour_metrics
from modereg.priors import CategoricalPrior
from modereg.recipes.build import set_up
from modereg.recipes.config import EvaluateConfig
from modereg.recipes.evaluate import evaluate, evaluate_policy, held_out_figures, judge
from tests.recipes.conftest import TASK


class Given(nn.Module):
    """Takes its input for logits."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def test_held_out_figures_by_hand() -> None:
    q = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    codes = torch.tensor([0, 1, 1, 1])  # code 1 is read as 0 twice and as 2 once; 2 never drawn
    prior = CategoricalPrior(torch.tensor([0.5, 0.25, 0.25]))
    estimator = CategoricalMI(Given(), prior, in_keys=[keys.HISTORY])
    final = TensorDict({keys.HISTORY: q.log(), keys.LATENT: codes}, [4])
    figures = held_out_figures(estimator, final)
    bound = (math.log(0.7 / 0.5) + 3 * math.log(0.3 / 0.25)) / 4
    assert figures["bound"] == pytest.approx(bound)
    assert figures["bound_share"] == pytest.approx(bound / (1.5 * math.log(2)))
    assert figures["held_out_accuracy"] == 0.25
    assert figures["aliased_codes"] == 1


def test_the_bound_is_not_clamped() -> None:
    q = torch.tensor([[1e-6, 1 - 1e-6]])
    estimator = CategoricalMI(Given(), 2, in_keys=[keys.HISTORY])
    final = TensorDict({keys.HISTORY: q.log(), keys.LATENT: torch.tensor([0])}, [1])
    assert held_out_figures(estimator, final)["bound"] == pytest.approx(math.log(2e-6), rel=1e-4)


def test_one_code_has_no_share() -> None:
    estimator = CategoricalMI(Given(), 1, in_keys=[keys.HISTORY])
    final = TensorDict(
        {keys.HISTORY: torch.zeros(3, 1), keys.LATENT: torch.zeros(3, dtype=torch.int64)}, [3]
    )
    figures = held_out_figures(estimator, final)
    assert (figures["bound"], figures["bound_share"], figures["aliased_codes"]) == (0.0, 0.0, 0)


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
