from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch.distributions import Independent, Normal, kl_divergence

from modereg import keys
from modereg.errors import NonFiniteError
from modereg.layout import Layout
from modereg.learners.base import Problem, advantage_estimator
from modereg.learners.config import PPOConfig
from modereg.learners.ppo import PPO
from modereg.objectives.ppo import MASKS
from modereg.reading import valid_rows
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import make_steering, steer_env
from tests.learners.made import check_goes_on, same, trained_weights

GAMMA, LMBDA = 0.9, 0.8
BASE = Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 2)
LAYOUT = Layout(12, execute=3, gamma=GAMMA)
ENDING = replace(LAYOUT, time_limit="terminates")


def _learner(layout: Layout = LAYOUT, seed: int = 0, **changes: Any) -> PPO:
    torch.manual_seed(0)
    policy = TinyPolicy(3)
    env = steer_env(CountingEnv([3, 7, 5, 12]), policy, 2, layout)
    steering = make_steering(env, policy, 2, hidden=(16,))
    problem = Problem(env, steering, policy, keys.REWARD, seed=seed, hidden=(16,))
    options = {"lmbda": LMBDA, "minibatch": 8, "epochs": 2, "decisions": 6} | changes
    return PPO(problem, PPOConfig(**options))


def test_whole_batches_begin_with_a_reset_that_the_seed_and_their_number_decide() -> None:
    first, again, other = (_learner(seed=seed) for seed in (0, 0, 1))
    batches = [first.collect().clone(), again.collect().clone(), other.collect().clone()]
    later = first.collect().clone()
    for batch in (*batches, later):
        assert batch.shape == (4, 6)
        assert torch.equal(batch.get(keys.OBSERVATION)[:, 0], torch.zeros(4, 3))
    for key in (keys.ACTION, keys.LATENT, ("next", keys.REWARD)):
        assert torch.equal(batches[0].get(key), batches[1].get(key))
    for batch in (batches[2], later):
        assert not torch.equal(batches[0].get(keys.ACTION), batch.get(keys.ACTION))


def _next_of(batch: TensorDictBase) -> TensorDictBase:
    return batch[:, -1].get("next")


def test_short_batches_go_on_where_the_last_one_ended() -> None:
    learner = _learner(decisions=2)
    assert (learner.whole, learner.checkpoint_every) == (False, 8)
    first, second, third = (learner.collect().clone() for _ in range(3))
    assert first.shape == (4, 2)
    for before, after in ((first, second), (second, third)):
        goes_on = ~_next_of(before).get("done").squeeze(-1)
        assert bool(goes_on.any())
        for key in (keys.OBSERVATION, keys.HISTORY):
            expected = _next_of(before).get(key)[goes_on]
            assert torch.equal(after.get(key)[goes_on, 0], expected)
        assert torch.equal(after.get(keys.LATENT)[goes_on, 0], before.get(keys.LATENT)[goes_on, 1])
    longest = torch.cat([first, second], 1)[3]  # of 12 steps, in 4 decisions of 3
    assert longest.get(("next", "done")).flatten().tolist() == [False, False, False, True]
    learner.state_dict()  # a checkpoint ends what is under way
    assert torch.equal(learner.collect().get(keys.OBSERVATION)[:, 0], torch.zeros(4, 3))


@pytest.mark.parametrize("layout", [LAYOUT, ENDING])
def test_advantages_discount_by_the_steps_of_each_decision(layout: Layout) -> None:
    learner = _learner(layout)
    batch = learner.collect()
    with torch.no_grad():
        learner.advantage(batch)
        following = learner.critic(batch.get("next").clone()).get("state_value").squeeze(-1)
    value, reward, steps, done = (
        batch.get(key).squeeze(-1)
        for key in ("state_value", ("next", "reward"), ("next", keys.STEPS), ("next", "done"))
    )
    assert steps.unique().numel() > 1  # episodes end inside a chunk
    valid = valid_rows(batch, MASKS)
    for row in range(4):
        carried = 0.0
        for t in reversed(range(6)):
            discount, alive = GAMMA ** int(steps[row, t]), 1.0 - float(done[row, t])
            delta = reward[row, t] + discount * alive * following[row, t] - value[row, t]
            carried = float(delta) + discount * LMBDA * alive * carried
            if valid is None or bool(valid[row].all()):
                assert float(batch.get("advantage")[row, t]) == pytest.approx(
                    carried, rel=1e-3, abs=1e-4
                )


def test_rows_that_the_advantage_calls_invalid_do_not_train() -> None:
    """Whatever stands in them, an update is the same to the bit; in a valid row it is not."""
    batch = _learner(ENDING).collect()
    assert bool(batch.get(("next", "terminated"))[0, 0].all())
    batch.get(("next", "terminated"))[0, 0] = False  # one that the environment cut
    with torch.no_grad():
        _learner(ENDING).advantage(marked := batch.clone())
    valid = marked.get("shifted_valid").view(batch.shape)
    assert 0 < int((~valid).sum()) < valid.numel()

    def after(where: torch.Tensor | None) -> dict[str, torch.Tensor]:
        learner = _learner(ENDING)
        advantage: Callable[..., Any] = learner.advantage

        def spoiled(data: TensorDictBase) -> None:
            advantage(data)
            if where is not None:
                for key in ("advantage", "value_target"):
                    data.get(key)[where] = 1e3

        learner.advantage = spoiled  # type: ignore[assignment]
        torch.manual_seed(3)
        learner.update(batch.clone())
        return trained_weights(learner)

    untouched = after(None)
    assert same(after(~valid), untouched)
    first = valid.clone().zero_()
    first[tuple(valid.nonzero()[0].tolist())] = True
    assert not same(after(first), untouched)


def test_an_update_makes_good_actions_likelier() -> None:
    learner = _learner(learning_rate=1e-2, kl_coef=0.0)
    batch = learner.collect()
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
        for _ in range(3):
            learner.update(learner.collect())
        batch = learner.collect()
        found = Independent(Normal(batch.get("loc"), batch.get("scale")), 2)
        moved[coef] = float(kl_divergence(found, BASE).mean())
    assert moved[10.0] < 0.5 * moved[0.0]


def test_mean_deviation_and_critic_have_learning_rates_of_their_own() -> None:
    for option, part in (
        ("learning_rate", ".network.layers."),
        ("std_learning_rate", ".log_std."),
        ("critic_learning_rate", "critic."),
    ):
        rates = dict.fromkeys(("learning_rate", "std_learning_rate", "critic_learning_rate"), 1e-30)
        learner = _learner(**(rates | {option: 0.1}))
        before = copy.deepcopy(trained_weights(learner))
        learner.update(learner.collect())
        now = trained_weights(learner)
        changed = {name for name in now if float((now[name] - before[name]).abs().max()) > 1e-6}
        assert changed == {name for name in changed if part in name} != set(), option


@pytest.mark.parametrize("decisions", [6, 2])
def test_a_state_taken_up_goes_on_bit_for_bit(decisions: int) -> None:
    """Whole batches and short ones."""
    check_goes_on(lambda: _learner(decisions=decisions), trained_weights, 3)


@pytest.mark.parametrize(
    "key",
    [("next", keys.REWARD), keys.OBSERVATION, keys.LATENT_FEATURES, "action_log_prob", keys.ACTION],
)
def test_what_is_not_finite_ends_before_the_optimisers_step(key: Any) -> None:
    learner = _learner()
    learner.update(learner.collect())
    batch = learner.collect()
    batch.get(key)[0, 0] = torch.nan
    before = copy.deepcopy(learner.optimizer.state_dict()["state"])
    weights = copy.deepcopy(trained_weights(learner))
    with pytest.raises(NonFiniteError, match=rf"{re.escape(repr(key))} in batch 2, got NaN"):
        learner.update(batch)
    assert same(trained_weights(learner), weights)
    for place, entries in learner.optimizer.state_dict()["state"].items():
        assert torch.equal(entries["exp_avg"], before[place]["exp_avg"])


def test_a_gradient_that_is_not_finite_names_the_batch() -> None:
    """Every entry is finite; a critic's huge weights are what overflows."""
    learner = _learner()
    batch = learner.collect()
    with torch.no_grad():
        learner.critic.module.layers[-1].weight.fill_(3e38)
    weights = copy.deepcopy(trained_weights(learner))
    with pytest.raises(NonFiniteError, match="batch 1"):
        learner.update(batch)
    assert same(trained_weights(learner), weights)


def test_truncated_episodes_are_bootstrapped() -> None:
    critic = _learner().critic
    assert advantage_estimator(ENDING, critic).shifted
    assert not advantage_estimator(LAYOUT, critic).shifted
    assert advantage_estimator(LAYOUT, critic).tensor_keys.reward == keys.REGULARIZED_REWARD


def test_the_critic_reads_the_code_and_is_scaled_like_the_steering_policy() -> None:
    learner = _learner()
    features = learner.steering.head.network.features
    features.fit(torch.randn(50, len(features.shift)) * 3)
    critic = learner.problem.make_critic()
    assert critic.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES]
    assert torch.equal(critic.module.features.shift, features.shift)
    values = critic.module(torch.zeros(2, 3), torch.eye(2)).detach()
    assert values.shape == (2, 1)
    assert float(values[0]) != float(values[1])


@pytest.mark.parametrize(
    ("chunk", "rank", "rate"),
    [((8, 2), None, 3e-4), ((9, 2), None, 1e-3), ((9, 2), 3, 3e-4)],
)
def test_the_learning_rate_follows_the_dimensions_that_are_steered(
    chunk: tuple[int, int], rank: int | None, rate: float
) -> None:
    policy = TinyPolicy(3, chunk)
    basis = None if rank is None else torch.eye(18)[:, :rank]
    env = steer_env(CountingEnv([3, 7]), policy, 1, Layout(12, execute=3, noise_basis=basis))
    steering = make_steering(env, policy, 1, hidden=(16,))
    problem = Problem(env, steering, policy, keys.REWARD)
    for config, expected in ((PPOConfig(), rate), (PPOConfig(learning_rate=0.1), 0.1)):
        groups = PPO(problem, config).optimizer.param_groups
        assert [group["lr"] for group in groups] == [expected, 3e-3, 1e-3]
