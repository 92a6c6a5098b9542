"""Group matching on a steering policy that begins at N(0, I), against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

from modereg import functional, keys
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.objectives import GroupMatchingLoss
from modereg.steering import SteeringPolicy

SHAPE = (2, 1)


def made(**options: float) -> GroupMatchingLoss:
    return GroupMatchingLoss(SteeringPolicy(["observation"], 4, 2, SHAPE, hidden=(8,)), **options)


def groups(returns: list[list[float]], decisions: int = 3) -> TensorDict:
    """Return ``[G, K, T]`` decisions, the last of which pay."""
    batch = (len(returns), len(returns[0]), decisions)
    reward = torch.zeros(*batch, 1)
    reward[:, :, -1, 0] = torch.tensor(returns)
    entries = {
        "observation": torch.randn(*batch, 4),
        keys.LATENT_FEATURES: torch.eye(2)[torch.zeros(batch, dtype=torch.int64)],
        keys.ACTION: torch.randn(*batch, *SHAPE),
        "next": {keys.REWARD: reward},
    }
    return TensorDict(entries, batch)


def _score(noise: torch.Tensor) -> float:
    """Return the mean over decisions of log N(w; 0, I)."""
    return float(-0.5 * noise.square().sum() / len(noise)) - math.log(2 * math.pi)


def test_it_is_the_mean_over_groups_whose_returns_differ() -> None:
    data, loss = groups([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 0.0, 1.0]]), made(beta=0.7)
    found = loss(data)
    scores = torch.tensor([[_score(data[g, k][keys.ACTION]) for k in range(3)] for g in (0, 2)])
    returns = torch.tensor([[0.0, 1.0, 1.0], [3.0, 0.0, 1.0]])
    expected = functional.group_matching(scores, returns, 0.7).mean()
    torch.testing.assert_close(found["loss_matching"], expected, rtol=1e-4, atol=1e-5)
    assert float(found["groups"]) == pytest.approx(2 / 3)
    assert set(loss.out_keys) == set(found.keys())


def test_what_comes_after_an_episode_does_not_count() -> None:
    data, loss = groups([[0.0, 1.0]], decisions=4), made()
    data[("collector", "mask")] = torch.tensor([True, True, True, True]).expand(1, 2, 4).clone()
    without = loss(data.exclude("collector"))["loss_matching"]
    torch.testing.assert_close(loss(data)["loss_matching"], without)
    data["next", keys.REWARD][:, :, 1, 0] = torch.tensor([0.0, 1.0])
    data[("collector", "mask")][..., 2:] = False
    data[keys.ACTION][:, :, 2:] = torch.nan
    data["next", keys.REWARD][:, :, 2:] = torch.nan
    cut = loss(data)["loss_matching"]
    scores = torch.tensor([[_score(data[0, k, :2][keys.ACTION]) for k in range(2)]])
    expected = functional.group_matching(scores, torch.tensor([[0.0, 1.0]]), 1.0).mean()
    torch.testing.assert_close(cut, expected, rtol=1e-4, atol=1e-5)
    cut.backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


def test_groups_that_pay_alike_teach_nothing() -> None:
    loss = made()
    found = loss(groups([[1.0, 1.0], [0.0, 0.0]]))
    assert found.detach().to_dict() == {"loss_matching": 0.0, "groups": 0.0}
    found["loss_matching"].backward()
    gradients = [p.grad for p in loss.parameters() if p.grad is not None]
    assert gradients
    assert not any(bool(gradient.any()) for gradient in gradients)


def test_two_rollouts_that_pay_become_equally_likely_beside_one_that_does_not() -> None:
    torch.manual_seed(0)
    data, loss = groups([[1.0, 1.0, 0.0]] * 4, decisions=1), made(beta=2.0)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(data)["loss_matching"].backward()
        optimizer.step()
    dist = loss.actor_network.distribution(data)
    likely = dist.log_prob(data[keys.ACTION]).squeeze(-1)
    assert (likely[:, :2] > likely[:, 2:]).all()
    assert float(loss(data)["loss_matching"].detach()) < 0.05


def test_batches_of_another_form_and_options_out_of_range_are_refused() -> None:
    loss, data = made(), groups([[1.0, 0.0]])
    for wrong in (data[0], data[:, :1]):
        with pytest.raises(ShapeError, match=r"expected groups of at least two rollouts, \[G, K"):
            loss(wrong)
    with pytest.raises(KeyMismatchError, match="GroupMatchingLoss reads 'action'"):
        loss(data.exclude(keys.ACTION))
    for option in ("beta", "least_spread"):
        with pytest.raises(ConfigurationError, match=f"expected {option} above 0 and finite"):
            made(**{option: 0.0})


def test_its_entries_can_be_renamed() -> None:
    loss, data = made(), groups([[1.0, 0.0]])
    expected = loss(data)["loss_matching"]
    data["next", "told"] = data["next"].pop(keys.REWARD)
    loss.set_keys(reward="told")
    assert ("next", "told") in loss.in_keys
    torch.testing.assert_close(loss(data)["loss_matching"], expected)
