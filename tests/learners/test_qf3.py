from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.learners.config import QF3Config
from modereg.learners.qf3 import QF3
from modereg.policies import DenoisingChain, freeze
from tests.learners.made import check_goes_on, make_learner, same, turn, weights
from tests.policies.made import flow


def _learner(basis: Tensor | None = None, **options: Any) -> QF3:
    on = {"policy": flow(num_steps=3), "basis": basis, "coef": options.pop("coef", None)}
    return make_learner(QF3Config, on=on, **options)


def test_the_weights_learn_after_the_critic_and_base_and_steering_policy_stay() -> None:
    made = _learner()
    parts = (made.steering, made.problem.base)
    stays = copy.deepcopy([part.state_dict() for part in parts])
    before = copy.deepcopy(dict(made.chain.tuned.state_dict()))
    turn(made)
    assert set(turn(made)) == {"loss_qvalue", "qvalue"}
    assert same(before, made.chain.tuned.state_dict())
    chunks = made.kept_rows()["next", keys.EXECUTED].flatten(1)
    scaled = made.loss.qvalue_network.module.scaled
    torch.testing.assert_close(scaled.shift, chunks.mean(0))
    figures = turn(made)
    assert {"loss_actor", "loss_kl", "kl", "loss_cfm", "clipped"} <= set(figures)
    assert not same(before, made.chain.tuned.state_dict())
    assert all(same(one, two.state_dict()) for one, two in zip(stays, parts, strict=True))


@pytest.mark.parametrize("rank", [None, 3])
def test_what_was_trained_is_played_and_its_noise_is_kept(rank: int | None) -> None:
    made = _learner(None if rank is None else torch.eye(8)[:, :rank])
    env, chain = made.problem.env, made.chain
    for _ in range(3):
        turn(made)
    assert env.tuned is chain
    batch = made.collect()
    noise = batch[keys.ACTION] if rank is None else batch["next", keys.NOISE]
    expected = chain.decode(noise, batch[keys.OBSERVATION])
    torch.testing.assert_close(batch["next", keys.CHUNK], expected)
    kept = made.buffer[:]
    assert (keys.ACTION in kept) == (rank is None)
    assert (("next", keys.NOISE) in kept.keys(True)) == (rank is not None)


@pytest.mark.parametrize(("nstep", "rank"), [(1, None), (3, None), (1, 2)])
def test_a_state_taken_up_goes_on_bit_for_bit(nstep: int, rank: int | None) -> None:
    make = partial(_learner, coef=1.0, buffer=20, nstep=nstep, lora_rank=rank)
    found = check_goes_on(make, weights, 4)
    assert "loss_actor" in found[-1]


def test_adapters_learn_and_nothing_that_they_adapt() -> None:
    made = _learner(lora_rank=2)
    start = copy.deepcopy(made.chain.weights().weights)
    stays = copy.deepcopy(made.problem.base.state_dict())
    for _ in range(4):
        turn(made)
    now = made.chain.weights().weights
    assert not any(torch.equal(start[name], value) for name, value in now.items())
    assert same(stays, made.problem.base.state_dict())
    for name, value in made.chain.tuned.named_parameters():
        assert (value.grad is not None) == value.requires_grad == (name in now), name


def test_it_goes_on_from_the_weights_of_a_start() -> None:
    first = _learner(steps=2, prefill=8)
    for _ in range(3):
        turn(first)
    on = _learner().problem
    started = DenoisingChain(on.base, 2)
    started.load_weights(first.chain.weights().weights)
    on.env.set_decoder(freeze(started))
    made = QF3Config().make(on)
    assert made.chain.steps == 2
    assert same(made.chain.tuned.state_dict(), first.chain.tuned.state_dict())
    sentence = "expected steps as the start trained, 2, got 3; leave them out"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        QF3Config(steps=3).make(on)


def test_a_policy_without_a_chain_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="denoising steps .* got TinyPolicy"):
        make_learner(QF3Config)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"lora_rank": 0}, "expected lora_rank of at least 1, got 0"),
        ({"clip": 0.0}, "expected clip above 0 and finite, got 0.0"),
        ({"cfm_coef": -1.0}, "expected cfm_coef of at least 0 and finite, got -1.0"),
        ({"noise": "drawn"}, "expected noise played or independent, got 'drawn'"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        QF3Config(**option)
