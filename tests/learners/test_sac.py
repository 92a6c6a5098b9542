from __future__ import annotations

import pytest
import torch

from modereg.errors import ConfigurationError
from modereg.learners.config import SACConfig
from tests.learners.made import make_learner, turn


def test_its_options_reach_loss_and_optimisers() -> None:
    rates = {"learning_rate": 1e-5, "std_learning_rate": 2e-5, "critic_learning_rate": 3e-5}
    given = {"critics": 3, "reduction": "mean", "kl_coef": 0.5, "kl_target": 2.0}
    made = make_learner(SACConfig, **given, **rates)
    assert (made.loss.reduction, made.loss.kl_target, made.loss.gamma) == ("mean", 2.0, 0.9)
    assert float(made.loss.kl_weight) == 0.5
    assert len(made.loss.qvalue_network.module.networks.weights[0]) == 3
    found = {name: [g["lr"] for g in part.param_groups] for name, part in made.optimizers.items()}
    assert found == {"actor": [1e-5, 2e-5], "critic": [3e-5]}
    head, (mean, std) = made.steering.head, made.optimizers["actor"].param_groups
    assert mean["params"] == list(head.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(std["params"], head.log_std.parameters()))


def test_a_policy_that_goes_further_than_its_target_is_held_more() -> None:
    made = make_learner(SACConfig, kl_target=1e-9)
    for _ in range(4):
        figures = turn(made)
    assert figures["kl"] > 1e-9
    assert float(made.loss.kl_weight) > 0.01
    with pytest.raises(ConfigurationError, match="expected kl_coef above 0, where the weight for"):
        SACConfig(kl_coef=0.0, kl_target=1.0)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected std_learning_rate above 0 and finite"):
        SACConfig(std_learning_rate=0.0)
