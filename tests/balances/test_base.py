from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg import keys
from modereg.balances.base import Balance, RunningMean
from modereg.balances.config import ConstantConfig, MultiplierConfig
from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from tests.balances.told import pays, transitions


def _balance(coef: float = 0.5) -> Balance:
    return ConstantConfig(coef).make(pays())


def test_the_mean_of_all_at_first_which_forgets_later() -> None:
    mean = RunningMean(2, window=4)
    number = mean.add(torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 5.0]))
    assert number.tolist() == [2, 1]
    assert mean.mean.tolist() == [1.5, 5.0]
    mean.add(torch.tensor([0, 0]), torch.tensor([3.0, 4.0]))
    assert mean.mean.tolist() == [2.5, 5.0]
    mean.add(torch.tensor([0]), torch.tensor([6.5]))  # 2.5 + 1 / 4 * 4
    assert mean.mean.tolist() == [3.5, 5.0]
    mean.add(torch.tensor([1] * 8), torch.tensor([2.0] * 8))  # more than the window
    assert mean.mean.tolist() == [3.5, 2.0]
    assert mean.count.tolist() == [4, 4]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9)), max_size=20), st.integers(0, 20))
def test_the_mean_does_not_hang_on_how_episodes_fall_into_batches(
    values: list[tuple[int, int]], cut: int
) -> None:
    together, apart = RunningMean(3, math.inf), RunningMean(3, math.inf)
    for mean, parts in ((together, [values]), (apart, [values[:cut], values[cut:]])):
        for part in parts:
            places = torch.tensor([place for place, _ in part], dtype=torch.int64)
            mean.add(places, torch.tensor([float(value) for _, value in part]))
    torch.testing.assert_close(apart.mean, together.mean)
    for place in {place for place, _ in values}:
        found = [value for at, value in values if at == place]
        assert float(together.mean[place]) == pytest.approx(sum(found) / len(found), abs=1e-5)


def test_the_unit_is_the_size_of_the_returns() -> None:
    balance = _balance()
    figures = balance.update(transitions([3.0, 4.0, 99.0], done=[True, True, False]))
    assert figures == {"return_scale": pytest.approx(math.sqrt(12.5)), "coef": 0.5}
    assert float(balance.mi_reward.unit) == pytest.approx(1.5 * math.sqrt(12.5))
    figures = balance.update(transitions([-5.0, 0.0]))  # the mean of 9, 16, 25 and 0
    assert figures["return_scale"] == pytest.approx(math.sqrt(12.5))
    paid = balance.mi_reward(transitions([5.0], told=[0.5]))["next", keys.REGULARIZED_REWARD]
    assert float(paid) == pytest.approx((5 / math.sqrt(12.5) + 0.5 * 0.5) / 1.5)


def test_before_any_episode_was_paid_those_under_way_are_the_unit() -> None:
    balance = _balance()
    assert balance.update(transitions([0.0, 0.0]))["return_scale"] == 1.0
    under_way = transitions([0.0, 3.0, 4.0], done=[True, False, False])
    assert balance.update(under_way)["return_scale"] == pytest.approx(math.sqrt(25 / 3))
    assert balance.update(transitions([8.0]))["return_scale"] == 4.0  # 0, 0, 0 and 8


def test_batches_of_several_dimensions_and_padding() -> None:
    batch = transitions([3.0, 99.0, 4.0, 99.0], done=[True, False, True, True]).reshape(2, 2)
    batch["collector", "mask"] = torch.tensor([[True, True], [True, False]])
    batch["next", keys.EPISODE_REWARD][1, 1] = torch.nan
    assert _balance().update(batch)["return_scale"] == pytest.approx(math.sqrt(12.5))


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=12), st.integers(-12, 12))
def test_rewards_times_a_power_of_two_change_no_bit(values: list[int], power: int) -> None:
    paid = []
    for scale in (1.0, 2.0**power):
        balance = _balance()
        for _ in range(2):
            batch = transitions([scale * value / 7 for value in values], told=[0.3] * len(values))
            balance.update(batch)
        paid.append(balance.mi_reward(batch)["next", keys.REGULARIZED_REWARD])
    assert torch.equal(*paid)


def test_figures_of_several_weights_are_their_mean_and_the_range() -> None:
    balance = MultiplierConfig(rate=1.0, share=0.5).make(pays(3))
    figures = balance.update(transitions([0.0, 1.0], [0, 1], success=[False, True]))
    low, high, start = balance.coef.tolist()
    assert low < start < high
    assert start == pytest.approx(0.3)
    torch.testing.assert_close(balance.mi_reward.coef, balance.coef / (1 + balance.coef.mean()))
    names = ("coef_min", "coef", "coef_max")
    expected = [low, (low + start + high) / 3, high]
    assert [figures[name] for name in names] == pytest.approx(expected)


def test_a_state_taken_up_goes_on() -> None:
    balance, resumed = _balance(), _balance()
    balance.update(transitions([3.0, 4.0]))
    resumed.update(transitions([100.0]))
    resumed.load_state_dict(balance.state_dict())
    assert float(resumed.mi_reward.unit) == float(balance.mi_reward.unit)
    batch = transitions([1.0])
    assert resumed.update(batch) == balance.update(batch)
    other = MultiplierConfig().make(pays())
    with pytest.raises(ConfigurationError, match=r"weights of shape \(\), got \(2,\)"):
        resumed.load_state_dict(other.state_dict())


def test_what_is_missing_or_not_finite_is_named() -> None:
    batch = transitions([1.0])
    with pytest.raises(NonFiniteError, match="episode_reward"):
        _balance().update(transitions([torch.inf]))
    del batch["next", keys.EPISODE_REWARD]
    with pytest.raises(KeyMismatchError, match=r"ConstantBalance \(RewardSum writes it\) reads"):
        _balance().update(batch)
