from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.balances.base import Balance
from modereg.balances.config import (
    BoundConfig,
    ConstantConfig,
    GateConfig,
    MultiplierConfig,
    ScheduleConfig,
)
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.priors import NormalPrior
from modereg.transforms import MIReward
from tests.balances.told import pays, transitions

FIRST = math.log(0.7 / 0.3)
"""The logit at which a multiplier begins."""


def _weights(balance: Balance, *batches: TensorDict) -> list[float]:
    for batch in batches:
        balance.update(batch)
    return balance.coef.tolist()


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_a_constant_stays() -> None:
    balance = ConstantConfig(0.25).make(pays())
    assert _weights(balance, transitions([1.0, 5.0], success=[False, True])) == 0.25


def test_a_schedule_goes_by_what_was_collected_before() -> None:
    """60 of 100 environment steps are half of the run; each batch has 2 decisions of 10."""
    balance = ScheduleConfig(start=1.0, end=0.4, share=0.6).make(pays(), env_steps=100)
    batch = transitions([1.0, 2.0], steps=10)
    weights = [_weights(balance, batch) for _ in range(5)]
    assert weights == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.4])
    del batch["next", keys.STEPS]
    decisions = ScheduleConfig(start=0.0, end=1.0).make(pays(), env_steps=4)
    assert [_weights(decisions, batch) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert _weights(ScheduleConfig(share=0.0).make(pays(), env_steps=9), batch) == 1.0


def test_a_gate_is_open_near_the_reference() -> None:
    """The best code's mean is .75: at .9 of it one of .5 is not near, at .6 of it it is."""
    batch = transitions([0.0] * 6, [0, 0, 0, 0, 1, 1], success=[1, 1, 0, 1, 0, 1])
    batch["next", keys.SUCCESS] = batch["next", keys.SUCCESS].bool()
    assert _weights(GateConfig(0.5, share=0.9).make(pays(3)), batch) == [0.5, 0.0, 0.5]
    assert _weights(GateConfig(0.5, share=0.6).make(pays(3)), batch) == [0.5, 0.5, 0.5]
    assert _weights(GateConfig(0.5, reference=1.0).make(pays(3)), batch) == [0.0, 0.0, 0.5]


def test_returns_are_achieved_where_there_is_no_success() -> None:
    """And negative ones: of the best, -10, a tenth more may be lost."""
    batch = transitions([-10.0, -10.9, -11.1], [0, 1, 2])
    assert _weights(GateConfig(0.5).make(pays(4)), batch) == [0.5, 0.5, 0.0, 0.5]
    with_success = transitions([-10.0, -20.0], [0, 1], success=[True, True])
    assert _weights(GateConfig(0.5).make(pays()), with_success) == [0.5, 0.5]
    assert _weights(GateConfig(0.5, figure="return").make(pays()), with_success) == [0.5, 0.0]
    with pytest.raises(KeyMismatchError, match="GateBalance reads .*success"):
        GateConfig(figure="success").make(pays(3)).update(batch)


def test_nothing_is_known_before_an_episode_has_ended_or_if_none_achieved_anything() -> None:
    under_way = transitions([1.0], done=[False])
    for config in (GateConfig(1.0), MultiplierConfig(1.0 / 0.3)):
        for batch in (under_way, transitions([0.0, 0.0], [0, 1])):
            assert _weights(config.make(pays()), batch) == pytest.approx([1.0, 1.0])


def test_a_multiplier_lowers_the_weight_of_the_code_that_suffers() -> None:
    """Code 0 has 1, 1 of the reference 1; code 1 has 0.5 of it, in two episodes; code 2 none."""
    config = MultiplierConfig(2.0, share=0.9, rate=0.5, reference=1.0)
    balance = config.make(pays(3))
    batch = transitions([0.0] * 3, [0, 1, 1], success=[True, True, False])
    found = _weights(balance, batch)
    logits = [FIRST - 0.5 * 0.1, FIRST - 0.5 * 2 * -0.4, FIRST]
    assert found == pytest.approx([2.0 * _sigmoid(-logit) for logit in logits])
    assert found[1] < 0.6 < found[0]
    again = _weights(balance, batch)
    logits = [FIRST - 0.1, FIRST + 0.8, FIRST]
    assert again == pytest.approx([2.0 * _sigmoid(-logit) for logit in logits])


def test_a_multiplier_comes_back_as_fast_as_it_went() -> None:
    balance = MultiplierConfig(1.0, share=0.5, rate=1.0, reference=1.0, window=1).make(pays(1))
    lost = transitions([0.0], [0], success=[False])
    found = transitions([0.0], [0], success=[True])
    assert _weights(balance, *[lost] * 20) == pytest.approx([_sigmoid(-5.0)])
    assert _weights(balance, *[found] * 10) == pytest.approx([0.5])
    assert _weights(balance, *[found] * 20) == pytest.approx([_sigmoid(5.0)])


def test_a_bound_raises_the_weight_while_less_is_read_than_at_the_start() -> None:
    """Read are 1, .6 at first, later 0: of windows of 2 episodes .8, and half of it."""
    config = BoundConfig(0.5, share=0.9, rate=0.2, limits=(0.1, 2.0), window=2)
    balance = config.make(pays())
    first = transitions([0.0] * 2, told=[1.0, 0.6])
    kept = 0.5 * math.exp(0.2 * 2 * (0.9 - 1.0))
    assert _weights(balance, first) == pytest.approx(kept)
    faded = transitions([0.0], told=[0.0])
    expected = kept * math.exp(0.2 * (0.9 - 0.4 / 0.8))
    assert _weights(balance, faded) == pytest.approx(expected)
    assert _weights(balance, *[faded] * 99) == 2.0
    assert _weights(balance, *[first] * 99) == pytest.approx(0.1)


def test_a_bound_on_all_there_is_to_read() -> None:
    """And nothing is learned where nothing was read at the start, or no episode has ended."""
    batch = transitions([0.0] * 2, told=[0.4, 0.2])
    prior = BoundConfig(0.5, share=1.0, rate=0.2).make(pays(), discovered=False)
    assert _weights(prior, batch) == pytest.approx(0.5 * math.exp(0.2 * 2 * 0.7))
    start = BoundConfig(0.5, share=1.0, rate=0.2).make(pays())
    assert _weights(start, transitions([0.0], done=[False])) == pytest.approx(0.5)
    assert _weights(start, transitions([0.0] * 2, told=[-1.0, 1.0])) == pytest.approx(0.5)
    assert _weights(BoundConfig(0.5).make(pays(NormalPrior(2), limit=1.0))) == 0.5


def test_all_there_is_to_read_needs_an_upper_limit() -> None:
    unbounded = pays(limit=math.inf)
    with pytest.raises(ConfigurationError, match="'prior' with Told"):
        BoundConfig(reference="prior").make(unbounded)
    assert _weights(BoundConfig(0.5).make(unbounded)) == 0.5


@pytest.mark.parametrize("config", [GateConfig(), MultiplierConfig()])
def test_continuous_codes_have_no_weight_of_their_own(config: Any) -> None:
    reward = pays(NormalPrior(2))
    with pytest.raises(ConfigurationError, match="discrete codes, each of which"):
        config.make(reward)
    assert float(ConstantConfig(0.5).make(reward).coef) == 0.5


@pytest.mark.parametrize(
    "config",
    [ConstantConfig(), ScheduleConfig(), GateConfig(), MultiplierConfig(), BoundConfig()],
    ids=lambda config: config.name,
)
def test_a_state_taken_up_goes_on_bit_for_bit(config: Any) -> None:
    def batch(seed: int) -> TensorDict:
        draw = torch.Generator().manual_seed(seed)
        codes = torch.randint(3, (12,), generator=draw).tolist()
        told, returns = torch.rand(2, 12, generator=draw).tolist()
        success = (torch.rand(12, generator=draw) < 0.5).tolist()
        return transitions(returns, codes, success=success, told=told, steps=3)

    def made() -> tuple[MIReward, Balance]:
        reward = pays(3)
        return reward, config.make(reward, env_steps=500)

    (reward, balance), (again, resumed) = made(), made()
    for seed in range(3):
        balance.update(batch(seed))
    state = copy.deepcopy(balance.state_dict())
    expected = [balance.update(batch(seed)) for seed in range(3, 6)]
    resumed.update(batch(9))  # something to be taken back
    resumed.load_state_dict(state)
    assert torch.equal(resumed.coef, state["coef"])
    assert [resumed.update(batch(seed)) for seed in range(3, 6)] == expected
    assert torch.equal(again.coef, reward.coef)
