from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.config import QF3Config, ResiPConfig
from modereg.learners.resip import ResiP
from modereg.policies import as_generative_policy
from modereg.residual import StepResidual
from modereg.testing import CountingEnv
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, steer_env
from tests.learners.made import check_goes_on, problem, same, trained_weights, turn
from tests.policies.made import flow


def _learner(coef: float | None = None, **options: Any) -> ResiP:
    given = {"minibatch": 8, "epochs": 2, "spread": 0.5} | options
    return ResiPConfig(**given).make(problem(coef=coef))


def test_the_first_batch_is_the_bases_and_teaches_the_critic_alone() -> None:
    made = _learner()
    before = copy.deepcopy(dict(made.residual.network.head.network.layers.state_dict()))
    critic = copy.deepcopy(dict(made.critic.state_dict()))
    batch = made.collect()
    window = batch["next", keys.CHUNK][..., :3, :].clamp(-0.5, 0.5)
    assert torch.equal(batch["next", keys.EXECUTED], window)
    made.update(batch)
    assert same(before, made.residual.network.head.network.layers.state_dict())
    assert not same(critic, made.critic.state_dict())
    actions = window.reshape(-1, 2)
    assert torch.equal(made.residual.directions, torch.diag(made.residual.directions.diagonal()))
    played = torch.cat([window[row][: int(n)] for row, n in _played(batch)])
    torch.testing.assert_close(made.residual.directions.diagonal(), played.std(0))
    assert len(played) < len(actions)


def _played(batch: Any) -> Any:
    steps = batch["next", keys.STEPS].squeeze(-1)
    return ((index, steps[index]) for index in _places(steps.shape))


def _places(shape: torch.Size) -> list[tuple[int, ...]]:
    return [tuple(each) for each in torch.cartesian_prod(*map(torch.arange, shape)).tolist()]


@pytest.mark.parametrize("coef", [None, 1.0])
def test_then_the_residual_learns_and_everything_else_stays(coef: float | None) -> None:
    made = _learner(coef)
    parts = (made.steering, made.problem.base)
    stays = copy.deepcopy([dict(part.state_dict()) for part in parts])
    turn(made)
    before = copy.deepcopy(dict(made.residual.state_dict()))
    figures = turn(made)
    assert {"loss_objective", "loss_critic", "kl_approx", "noise_entropy"} <= set(figures)
    assert not same(before, made.residual.state_dict())
    assert all(same(one, two.state_dict()) for one, two in zip(stays, parts, strict=True))


def test_draws_are_played_while_it_collects_and_the_mean_between() -> None:
    made = _learner(learning_rate=1e-2)
    for _ in range(3):
        turn(made)
    batch = made.collect()
    steps = made.single.write(batch)
    mask, residual = steps["collector", "mask"], made.residual
    shift = residual.bounded(steps[made.residual.network.action_key])
    moved = (steps[keys.BASE_ACTION] + (shift @ residual.directions).unsqueeze(-2)).clamp(-0.5, 0.5)
    torch.testing.assert_close(steps["next", keys.PLAYED][mask], moved[mask])
    dist = residual.network.distribution(steps)
    torch.testing.assert_close(
        steps["action_log_prob"][mask], dist.log_prob(steps[keys.ACTION])[mask]
    )
    env = made.problem.env
    assert env.step_residual is residual
    with torch.no_grad():
        after = env.step(made.steering(root := env.reset()))
    first = after["next", keys.CHUNK][:, 0].clamp(-0.5, 0.5)
    expected = residual.move(root, first).clamp(-0.5, 0.5)
    torch.testing.assert_close(after["next", keys.EXECUTED][:, 0], expected)
    assert float((expected - first).abs().max()) > 0.0


def test_the_ratio_of_a_collected_batch_is_one_and_updates_make_good_draws_likelier() -> None:
    made = _learner(epochs=1, minibatch=1000, learning_rate=1e-30)
    turn(made)
    figures = turn(made)
    assert abs(figures["kl_approx"]) < 1e-6
    assert figures["clip_fraction"] == 0.0
    made = _learner(learning_rate=1e-2)
    turn(made)
    batch = made.collect()
    kept: list[Any] = []
    write = made.single.write
    made.single.write = lambda batch: kept.append(write(batch)) or kept[0]
    made.update(batch)
    rows = kept[0][kept[0]["collector", "mask"]]
    dist = made.residual.network.distribution(rows)
    gain = (dist.log_prob(rows[keys.ACTION]) - rows["action_log_prob"]).detach()
    advantage = rows["advantage"].squeeze(-1)
    assert float(((advantage - advantage.mean()) * gain).mean()) > 0.0


def test_it_may_explore_by_little() -> None:
    made = _learner(bound=0.01)
    made.collect()
    drawn = made.single.recorder._decisions[0].states[0][keys.ACTION]
    assert float(drawn.abs().max()) < 0.02


def test_advantages_are_those_of_single_steps_and_time_outs_are_bootstrapped() -> None:
    """By a loop over the steps that were played, with one episode that ran out of time."""
    made = _learner()
    turn(made)
    batch = made.collect()
    ended = batch["next", "done"].squeeze(-1).nonzero()[0].tolist()
    batch["next", "terminated"][tuple(ended)] = False
    steps = made.single.write(batch)
    with torch.no_grad():
        made.advantage(steps)
        value, after = (made.critic(part.clone())["state_value"] for part in (steps, steps["next"]))
    mask, nxt = steps["collector", "mask"], steps["next"]
    gamma, cut = made.problem.layout.gamma, 0
    for row in range(4):
        following = 0.0
        for at in reversed(mask[row].nonzero().squeeze(-1).tolist()):
            done, terminated = bool(nxt["done"][row, at]), bool(nxt["terminated"][row, at])
            cut += done and not terminated
            target = nxt[keys.REWARD][row, at] + gamma * after[row, at] * (not terminated)
            following = target - value[row, at] + gamma * 0.99 * following * (not done)
            torch.testing.assert_close(steps["advantage"][row, at], following, rtol=1e-4, atol=1e-4)
    assert cut == 1


@pytest.mark.parametrize(("decisions", "coef"), [(None, 1.0), (2, None)])
def test_a_state_taken_up_goes_on_bit_for_bit(decisions: int | None, coef: float | None) -> None:
    make = lambda: _learner(coef, decisions=decisions)  # noqa: E731
    check_goes_on(make, trained_weights, 2)


class Gusts(CountingEnv):
    """Pushes the sum of the actions at every step; what is paid is that it stays at zero."""

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        out = super()._step(tensordict)
        self._state[..., 1:] += 0.1 * torch.randn_like(self._state[..., 1:])
        out.set(keys.OBSERVATION, self._state.clone())
        return out.set(keys.REWARD, -self._state[..., 1:].square().sum(-1, keepdim=True))


def test_it_learns_to_meet_what_happens_within_a_chunk() -> None:
    """Of a base that corrects once in eight steps what it saw before them."""
    torch.manual_seed(0)
    base = as_generative_policy(
        lambda noise, seen: 0.1 * noise - 0.1 * seen[..., None, 1:],
        in_keys=[keys.OBSERVATION],
        noise_shape=(8, 2),
        chunk_shape=(8, 2),
    )
    env = steer_env(Gusts([16] * 64), base, 1, Layout(16, execute=8, gamma=0.97))
    steering = make_steering(env, base, 1, hidden=(16,))
    on = Problem(env, steering, base, keys.REWARD, hidden=(32,))
    made = ResiPConfig(bound=1.5, minibatch=512, learning_rate=3e-3).make(on)
    paid = []
    for _ in range(10):
        batch = made.collect()
        made.update(batch)
        paid.append(float(batch["next", keys.REWARD].mean()))
    assert sum(paid[-2:]) > 0.8 * sum(paid[:2])  # which are negative


def test_it_goes_on_from_the_residual_of_a_start() -> None:
    first = _learner(learning_rate=1e-2)
    for _ in range(2):
        turn(first)
    on = problem()
    on.env.set_step_residual(copy.deepcopy(first.residual))
    made = ResiPConfig(minibatch=8).make(on)
    assert made.residual is on.env.step_residual
    batch = made.collect()
    window = batch["next", keys.CHUNK][..., :3, :].clamp(-0.5, 0.5)
    assert not torch.equal(batch["next", keys.EXECUTED], window)
    directions = made.residual.directions.clone()
    made.update(batch)
    assert torch.equal(made.residual.directions, directions)
    assert not same(first.residual.state_dict(), made.residual.state_dict())
    sentence = "the bound of the step residual that the start brings, 0.5, got 0.2; leave it out"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        ResiPConfig(bound=0.2).make(on)
    assert isinstance(made.residual, StepResidual)


def test_critics_of_chunks_are_refused_where_single_steps_are_moved() -> None:
    on = problem(policy=flow(num_steps=3))
    on.env.set_step_residual(on.make_step_residual(None))
    with pytest.raises(ConfigurationError, match="a start whose residual moves each action"):
        QF3Config().make(on)


def test_an_intrinsic_reward_of_each_decision_is_refused() -> None:
    on = problem(coef=1.0)
    pays = MIReward(on.mi_reward.estimator, timing="dense", gamma=0.9)
    with pytest.raises(ConfigurationError, match="paid at the end or by differences"):
        ResiPConfig().make(replace(on, mi_reward=pays))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"bound": 0.0}, "expected bound above 0 and finite, got 0.0"),
        ({"spread": -1.0}, "expected spread above 0 and finite, got -1.0"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0 and finite, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        ResiPConfig(**option)
