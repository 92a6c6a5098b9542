from __future__ import annotations

import pytest
import torch

from modereg.errors import ConfigurationError, ShapeError
from modereg.tasks import Avoid, Demonstrations, avoid_task


@pytest.fixture(scope="module")
def first_attempts() -> Demonstrations:
    return avoid_task().demonstrate(480, 0, keep_failures=True)


def test_the_expert_succeeds_in_every_mode(first_attempts: Demonstrations) -> None:
    assert first_attempts.success.float().mean() > 0.95
    assert first_attempts.mode_counts(24).min() >= 18  # of 20 asked for


def test_margin_to_the_time_limit(first_attempts: Demonstrations) -> None:
    assert first_attempts.lengths[first_attempts.success].max() <= 84


def test_moderate_noise_leaves_the_expert_competent() -> None:
    noisy = avoid_task(action_noise=0.5).demonstrate(480, 0, keep_failures=True)
    assert noisy.success.float().mean() > 0.95


def test_shares_are_met_exactly_and_all_succeed() -> None:
    shares = torch.arange(24.0)
    demonstrations = avoid_task(action_noise=0.6).demonstrate(552, 3, shares=shares)
    assert demonstrations.success.all()
    assert demonstrations.mode_counts(24).tolist() == list(range(0, 48, 2))


def test_equal_shares_differ_by_one_at_most() -> None:
    counts = avoid_task().demonstrate(100, 0).mode_counts(24)
    assert counts.sum() == 100
    assert counts.max() - counts.min() == 1


def test_seeds_reproduce() -> None:
    first, same, other = (avoid_task().demonstrate(24, seed) for seed in (1, 1, 2))
    assert torch.equal(first.actions, same.actions)
    assert torch.equal(first.modes, same.modes)
    assert not torch.equal(first.actions, other.actions)


def test_noise_is_executed_and_clean_actions_are_kept() -> None:
    clean = avoid_task(action_noise=0.0).demonstrate(24, 0)
    noisy = avoid_task(action_noise=0.5).demonstrate(24, 0)
    for demonstrations, exact in ((clean, True), (noisy, False)):
        desired = demonstrations.observations["observation"][..., :2]
        assert torch.allclose(desired.diff(dim=1), demonstrations.actions, atol=1e-6) == exact
        assert demonstrations.actions.abs().max() <= 0.015 + 1e-7


def test_replaying_clean_actions_of_a_steady_hand_reaches_the_same_mode() -> None:
    clean = avoid_task(action_noise=0.0, start_noise=0.0).demonstrate(48, 0)
    env = Avoid(48, start_noise=0.0)
    root = env.reset()
    for action in clean.actions.unbind(1):
        root = env.step(root.set("action", action))["next"]
    assert root["success"].all()
    assert torch.equal(root["mode"].squeeze(-1), clean.modes)


def test_padding_repeats_the_last_observation_and_does_nothing() -> None:
    demonstrations = avoid_task().demonstrate(24, 0)
    observation = demonstrations.observations["observation"]
    for index, length in enumerate(demonstrations.lengths.tolist()):
        assert (demonstrations.actions[index, length:] == 0).all()
        assert (observation[index, length:] == observation[index, length]).all()
        assert observation[index, length, 3] > 0.35 >= observation[index, length - 1, 3]


def test_routes_separate_within_the_first_chunk() -> None:
    clean = avoid_task(action_noise=0.0, start_noise=0.0).demonstrate(24, 0)
    after_chunk = clean.observations["observation"][:, 8, 2]
    left = clean.modes < 12
    assert after_chunk[~left].min() - after_chunk[left].max() > 0.06


def test_lanes_spread() -> None:
    wide = avoid_task(action_noise=0.0, start_noise=0.0, lane_noise=0.01).demonstrate(240, 0)
    x, y = wide.observations["observation"][..., 2:].unbind(-1)
    at_goal = torch.stack([path[y[i] > 0.3][0] for i, path in enumerate(x)])
    left = at_goal[wide.modes % 4 == 0]
    assert 0.004 < left.std() < 0.016


def test_an_expert_that_never_succeeds_says_so() -> None:
    with pytest.raises(ConfigurationError, match="lower its noise"):
        avoid_task(action_noise=5.0).demonstrate(24, 0)


def test_shares_of_the_wrong_shape_or_sign_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shares of the 24 modes.*got shape \[3\]"):
        avoid_task().demonstrate(24, 0, shares=torch.ones(3))
    with pytest.raises(ConfigurationError, match="not all 0"):
        avoid_task().demonstrate(24, 0, shares=torch.zeros(24))
