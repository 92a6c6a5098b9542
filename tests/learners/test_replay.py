from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase

from modereg import keys
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.learners.config import DSRLConfig, ReplayConfig, ResidualConfig, SACConfig
from modereg.learners.replay import ReplayLearner
from tests.learners.made import check_goes_on, make_learner, same, turn, weights

KINDS = [SACConfig, DSRLConfig, ResidualConfig]


def _sac(coef: float | None = None, **options: Any) -> ReplayLearner:
    return make_learner(SACConfig, on={"coef": coef}, **options)


def test_nothing_is_learned_before_the_prefill() -> None:
    """4 environments x 2 decisions: two batches make 16; the critic then learns alone first."""
    learner = _sac()
    before = copy.deepcopy(weights(learner))
    assert turn(learner) == {"prefilled": 0.5}
    assert same(before, weights(learner))
    assert (learner.kept, learner.owed) == (8, 4.0)
    figures = turn(learner)
    assert {"loss_qvalue", "qvalue"} == set(figures)
    assert learner.optimizers["critic"].state_dict()["state"][0]["step"] == 8
    assert learner.optimizers["actor"].state_dict()["state"] == {}
    turn(learner)
    assert learner.optimizers["actor"].state_dict()["state"][0]["step"] == 2


def test_gradient_steps_are_counted_by_decisions() -> None:
    learner = _sac(updates=0.3, prefill=8)
    steps = []
    for _ in range(4):
        turn(learner)
        steps.append(int(learner.optimizers["critic"].state_dict()["state"][0]["step"]))
    assert steps == [2, 4, 7, 9]  # 2.4 are owed a batch


def test_the_policy_learns_at_every_so_manieth_step() -> None:
    """However few are owed at a time."""
    learner = _sac(updates=0.125, prefill=8, actor_every=4)  # one step a batch
    for _ in range(9):
        turn(learner)
    counts = [
        int(optimizer.state_dict()["state"][0]["step"])
        for optimizer in (learner.optimizers["critic"], learner.optimizers["actor"])
    ]
    assert counts == [9, 2]


def test_padding_is_not_kept() -> None:
    learner = _sac()
    batch = learner.collect()
    batch[("collector", "mask")] = torch.zeros(batch.shape, dtype=torch.bool)
    assert learner.update(batch) == {}
    assert len(learner.buffer) == 0


def test_episodes_go_on_from_batch_to_batch() -> None:
    learner = _sac()
    first, second = learner.collect().clone(), learner.collect().clone()
    goes_on = ~first[:, -1].get(("next", "done")).squeeze(-1)
    assert bool(goes_on.any())
    expected = first[:, -1].get(("next", keys.OBSERVATION))[goes_on]
    assert torch.equal(second.get(keys.OBSERVATION)[goes_on, 0], expected)
    learner.state_dict()
    assert torch.equal(learner.collect().get(keys.OBSERVATION)[:, 0], torch.zeros(4, 3))


def test_the_newest_discoverer_pays_for_what_was_kept() -> None:
    """What stands in the buffer was paid by the q of then; the critic is taught by that of now."""
    learner = _sac(1.0, prefill=8)
    turn(learner)
    paid: list[TensorDictBase] = []
    critic_loss = learner.loss.critic_loss
    learner.loss.critic_loss = lambda data: paid.append(data.clone()) or critic_loss(data)
    pays = learner.problem.mi_reward
    assert pays is not None
    with torch.no_grad():
        for parameter in pays.estimator.parameters():
            parameter.add_(torch.randn_like(parameter))
    learner.owed = 1.0
    learner._learn(critic_only=True)
    (sample,) = paid
    expected = pays(sample.clone()).get(("next", keys.REGULARIZED_REWARD))
    assert torch.equal(sample.get(("next", keys.REGULARIZED_REWARD)), expected)
    kept = learner.buffer[:].get(("next", keys.REWARD))
    assert float(kept.abs().sum()) > 0
    assert not torch.equal(expected, sample.get(("next", keys.REWARD)))


def test_only_what_is_read_is_kept() -> None:
    plain, with_codes = _sac(), _sac(1.0)
    turn(plain)
    turn(with_codes)
    assert keys.HISTORY not in plain.buffer[:]
    assert keys.HISTORY in with_codes.buffer[:]
    for made in (plain, with_codes):
        assert keys.CHUNK not in made.buffer[:]["next"]


@pytest.mark.parametrize("coef", [None, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_taken_up_goes_on_bit_for_bit(kind: type[Any], coef: float | None) -> None:
    """With a buffer that is full, so that it matters where the next transitions are written."""
    check_goes_on(lambda: make_learner(kind, on={"coef": coef}, buffer=20), weights, 4)


def test_a_state_is_as_large_as_what_was_kept_and_stays_as_it_is() -> None:
    """A view of the buffer would be saved as all of it, and change with it."""
    learner = _sac(buffer=1000)
    turn(learner)
    state = learner.state_dict()
    noise = state["buffer"][keys.ACTION]
    assert noise.untyped_storage().nbytes() == noise.nbytes
    before = copy.deepcopy(state["buffer"])
    learner.load_state_dict(state)
    turn(learner)
    assert torch.equal(state["buffer"][keys.ACTION], before[keys.ACTION])


def test_what_is_not_finite_is_neither_kept_nor_learned_from() -> None:
    learner = _sac()
    batch = learner.collect()
    batch.get(("next", keys.REWARD))[0, 0] = torch.nan
    key = re.escape(repr(("next", keys.REWARD)))
    with pytest.raises(NonFiniteError, match=rf"{key} in batch 1, got NaN"):
        learner.update(batch)
    assert len(learner.buffer) == 0


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"updates": 0.0}, "expected updates above 0 and finite, got 0.0"),
        ({"tau": 1.5}, r"expected tau in \[0, 1\], got 1.5"),
        ({"reduction": "max"}, "expected reduction min or mean, got 'max'"),
        ({"buffer": 100}, "expected a buffer for prefill and minibatch, at least 8192"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        ReplayConfig(**option)
