from __future__ import annotations

import copy

import pytest
import torch

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.learners.config import DSRLConfig
from tests.learners.made import make_learner, turn


def test_no_noise_is_kept_and_chunks_are_standardised_by_the_prefill() -> None:
    made = make_learner(DSRLConfig)
    turn(made)
    assert keys.ACTION not in made.buffer[:]
    scaled = made.loss.qvalue_network.module.scaled
    assert torch.equal(scaled.scale, torch.ones(6))
    turn(made)
    chunks = made.buffer[:].get(("next", keys.EXECUTED)).flatten(1)
    assert len(chunks) == 16
    for network in (made.loss.qvalue_network, made.loss.target_network):
        torch.testing.assert_close(network.module.scaled.shift, chunks.mean(0))
        torch.testing.assert_close(network.module.scaled.scale, chunks.std(0))


def test_the_critic_of_noises_learns_at_each_step_and_the_policy_from_it() -> None:
    made = make_learner(DSRLConfig, prefill=8)
    before = copy.deepcopy(made.loss.noise_qvalue_network.state_dict())
    figures = turn(made)
    assert {"loss_qvalue", "loss_noise_qvalue", "qvalue"} == set(figures)
    after = made.loss.noise_qvalue_network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert {"loss_actor", "loss_kl"} <= set(turn(made))
    steps = {
        name: int(part.state_dict()["state"][0]["step"]) for name, part in made.optimizers.items()
    }
    assert steps == {"critic": 8, "noise_critic": 8, "actor": 2}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"draws": 0}, "expected draws of at least 1, got 0"),
        ({"prior_share": 1.5}, r"expected prior_share in \[0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        DSRLConfig(**option)
