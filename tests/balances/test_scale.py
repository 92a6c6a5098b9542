"""Rewards times a number give the same updates of the policy, whatever the learner and balance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchrl.envs import RewardScaling, RewardSum, TransformedEnv

from modereg import keys
from modereg.balances.config import BoundConfig, ConstantConfig, MultiplierConfig
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.config import PPOConfig, SACConfig
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, observation_size, steer_env

BALANCES = [ConstantConfig(), MultiplierConfig(figure="return"), BoundConfig()]
LEARNERS = [
    PPOConfig(epochs=2, minibatch=8),
    SACConfig(decisions=3, prefill=12, minibatch=8, buffer=64, updates=0.5),
]


def _trained(learner: Any, balance: Any, scale: float) -> tuple[dict[str, Tensor], list[float]]:
    """Return the weights of the steering policy after four batches, and the logged figures."""
    torch.manual_seed(0)
    policy = TinyPolicy(3)
    scaled = TransformedEnv(CountingEnv([3, 7, 5, 12]), RewardScaling(0.0, scale))
    env = steer_env(scaled, policy, 2, Layout(12, execute=3, gamma=0.9))
    env.append_transform(RewardSum([keys.REWARD], [keys.EPISODE_REWARD]))
    steering = make_steering(env, policy, 2, hidden=(16,))
    q = CategoricalMI(observation_size(env, [keys.HISTORY]), 2, hidden=(16,))
    reward = MIReward(q, env.layout)
    weighs = balance.make(reward, env_steps=100)
    problem = Problem(env, steering, policy, keys.REGULARIZED_REWARD, reward, hidden=(16,))
    made, figures = learner.make(problem), []
    for _ in range(4):
        batch = made.collect()
        figures.append(weighs.update(batch)["coef"])
        made.update(reward(batch))
    return dict(steering.state_dict()), figures


@pytest.mark.parametrize("balance", BALANCES, ids=lambda config: config.name)
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda config: config.name)
def test_rewards_times_a_number_give_the_same_policy(learner: Any, balance: Any) -> None:
    """Times a power of two to the last bit, times ten but for rounding."""
    weights, coefs = _trained(learner, balance, 1.0)
    again, found = _trained(learner, balance, 8.0)
    assert found == coefs
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    again, found = _trained(learner, balance, 10.0)
    assert found == pytest.approx(coefs, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda config: config.name)
def test_the_policy_does_learn_there_and_from_the_balance(learner: Any) -> None:
    first, _ = _trained(learner, ConstantConfig(0.0), 1.0)
    other, _ = _trained(learner, ConstantConfig(3.0), 1.0)
    assert any(not torch.allclose(other[name], value, atol=1e-3) for name, value in first.items())
