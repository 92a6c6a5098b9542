from __future__ import annotations

import copy

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from modereg import keys
from modereg.recipes.config import PPOConfig
from modereg.recipes.ppo import PPO, make_critic
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import make_steering, steer_env

GAMMA, LMBDA = 0.9, 0.8
BASE = Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 2)


def _learner(truncates: bool = False, **changes: object) -> PPO:
    torch.manual_seed(0)
    policy = TinyPolicy(3)
    env = steer_env(CountingEnv([3, 7, 5, 12]), policy, 2, max_decisions=4, execute=3, gamma=GAMMA)
    steering = make_steering(env, policy, 2, [keys.OBSERVATION], hidden=(16,))
    critic = make_critic([keys.OBSERVATION], 3, 2, (16,))
    config = PPOConfig(gamma=GAMMA, lmbda=LMBDA, minibatch=8, epochs=2, **changes)
    return PPO(
        env, steering, critic, config, reward_key=keys.REWARD, decisions=6, truncates=truncates
    )


def test_a_batch_begins_with_a_seeded_reset() -> None:
    learner = _learner()
    first, other, again = (learner.collect(3, number).clone() for number in (5, 6, 5))
    assert first.shape == (4, 6)
    for key in (keys.ACTION, keys.LATENT, ("next", keys.REWARD)):
        assert torch.equal(first.get(key), again.get(key))
        assert not torch.equal(first.get(keys.ACTION), other.get(keys.ACTION))
    assert torch.equal(first.get(keys.OBSERVATION)[:, 0], torch.zeros(4, 3))
    assert float(learner.collect(4, 5).get(keys.ACTION)[0, 0, 0, 0]) != float(
        first.get(keys.ACTION)[0, 0, 0, 0]
    )


def test_advantages_discount_by_the_steps_of_each_decision() -> None:
    learner = _learner()
    batch = learner.collect(0, 0)
    with torch.no_grad():
        learner.advantage(batch)
        following = learner.critic(batch.get("next").clone()).get("state_value").squeeze(-1)
    value, reward, steps, done = (
        batch.get(key).squeeze(-1)
        for key in ("state_value", ("next", "reward"), ("next", keys.STEPS), ("next", "done"))
    )
    assert steps.unique().numel() > 1  # episodes end inside a chunk
    for row in range(4):
        carried = 0.0
        for t in reversed(range(6)):
            discount, alive = GAMMA ** int(steps[row, t]), 1.0 - float(done[row, t])
            delta = reward[row, t] + discount * alive * following[row, t] - value[row, t]
            carried = float(delta) + discount * LMBDA * alive * carried
            assert float(batch.get("advantage")[row, t]) == pytest.approx(
                carried, rel=1e-3, abs=1e-4
            )


def test_an_update_makes_good_actions_likelier() -> None:
    learner = _learner(learning_rate=1e-2, kl_coef=0.0)
    batch = learner.collect(0, 0)
    with torch.no_grad():
        learner.advantage(batch)
    advantage = batch.get("advantage").flatten()
    flat = batch.select(*learner.steering.in_keys, keys.ACTION).reshape(-1)
    before = learner.steering.distribution(flat).log_prob(flat.get(keys.ACTION)).detach()
    figures = learner.update(batch)
    after = learner.steering.distribution(flat).log_prob(flat.get(keys.ACTION)).detach()
    centred = advantage - advantage.mean()
    assert float((centred * (after - before)).mean()) > 0
    assert {"loss_objective", "loss_critic", "clip_fraction", "noise_entropy"} <= set(figures)
    assert "entropy" not in figures  # that is the entropy of behaviours


def test_the_divergence_from_the_base_is_held_down() -> None:
    moved = {}
    for coef in (0.0, 10.0):
        learner = _learner(learning_rate=1e-2, std_learning_rate=1e-2, kl_coef=coef)
        for number in range(3):
            learner.update(learner.collect(0, number))
        batch = learner.collect(0, 9)
        found = Independent(Normal(batch.get("loc"), batch.get("scale")), 2)
        moved[coef] = float(kl_divergence(found, BASE).mean())
    assert moved[10.0] < 0.5 * moved[0.0]


def test_mean_deviation_and_critic_have_learning_rates_of_their_own() -> None:
    learner = _learner(learning_rate=0.0, std_learning_rate=0.0)
    steering = copy.deepcopy(learner.steering.state_dict())
    critic = copy.deepcopy(learner.critic.state_dict())
    learner.update(learner.collect(0, 0))
    now = learner.steering.state_dict()
    assert all(torch.equal(steering[name], now[name]) for name in steering)
    assert any(not torch.equal(critic[n], v) for n, v in learner.critic.state_dict().items())


def test_a_state_taken_up_goes_on_bit_for_bit() -> None:
    learner = _learner()
    learner.update(learner.collect(0, 0))
    state = copy.deepcopy(learner.state_dict())
    expected = learner.update(learner.collect(0, 1))
    resumed = _learner(learning_rate=3e-4)
    resumed.load_state_dict(state)
    assert resumed.update(resumed.collect(0, 1)) == expected
    ours, theirs = learner.state_dict()["steering"], resumed.state_dict()["steering"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_truncated_episodes_are_bootstrapped() -> None:
    assert _learner(truncates=False).advantage.shifted
    assert not _learner(truncates=True).advantage.shifted


def test_the_critic_reads_the_code() -> None:
    critic = make_critic([keys.OBSERVATION], 3, 2, (8,))
    assert critic.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES]
    values = critic.module(torch.zeros(2, 3), torch.eye(2)).detach()
    assert values.shape == (2, 1)
    assert float(values[0]) != float(values[1])
