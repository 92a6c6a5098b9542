"""A residual on the chunks: targets, gradients and exploration against hand-computed values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.objectives import ChunkResidualLoss
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy
from tests.objectives.made import (
    BOUND,
    CODES,
    GAMMA,
    chunk_critic,
    decoder,
    descend_in_turn,
    policy,
    transitions,
)

LENGTH, MEAN = 0.6, (0.3, -0.4)
U = LENGTH / math.sqrt(LENGTH**2 + 0.25)  # of |m| = 1/2: what each number of m is shortened by


def made(mean: tuple[float, float] = MEAN, **options: Any) -> ChunkResidualLoss:
    """Return the loss of a residual whose m is the same everywhere, along the first two numbers."""
    torch.manual_seed(0)
    actor = SteeringPolicy(["observation"], 3, CODES, (4, 2), hidden=(8,))
    directions = torch.eye(2, 6)
    moving = ChunkResidual.at_zero(["observation"], 3, CODES, directions, bound=LENGTH, hidden=(8,))
    with torch.no_grad():  # the mean is 2 tanh(m / 2)
        raw = 2.0 * torch.atanh(torch.tensor(mean) / 2.0)
        moving.network.head.network.layers[-1].bias.copy_(raw)
    options = {"gamma": GAMMA, "kl_coef": 0.1, "spread": 1e-6} | options
    return ChunkResidualLoss(moving, actor, chunk_critic(), decoder(), **options)


def played(loss: ChunkResidualLoss, states: Any) -> Tensor:
    """Return the chunks of the steering policy's noise, moved and clipped by hand."""
    noise = loss.steering_network.distribution(states).sample()
    chunk = policy().decode(noise, states["observation"])[:, :3].clone()
    chunk[:, 0] += U * torch.tensor(MEAN)
    return chunk.clamp(-BOUND, BOUND)


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_the_target_is_the_value_of_the_sum(reduction: str) -> None:
    loss, data = made(reduction=reduction), transitions()
    torch.manual_seed(3)
    found, after = loss.target(data), data["next"]
    torch.manual_seed(3)
    total = played(loss, after).flatten(-2).sum(-1)
    both = torch.stack([total + 5.0, 3.0 * total])
    value = both.amin(0) if reduction == "min" else both.mean(0)
    ended = after["terminated"].squeeze(-1)
    discount = GAMMA ** after[keys.STEPS].squeeze(-1)
    expected = after["reward"].squeeze(-1) + discount * torch.where(ended, 0.0, value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_the_residual_climbs_the_critic_where_the_chunk_is_not_clipped() -> None:
    """Q is twice the sum plus 2.5; dQ/du is 2 within the bounds, over the mean size of Q."""
    loss, data = made(mean=(0.0, 0.0), reduction="mean", kl_coef=0.0), transitions(50)
    torch.manual_seed(2)
    noise = loss.steering_network.distribution(data).sample()
    chunk = policy().decode(noise, data["observation"])[:, :3]
    size = float((2.0 * chunk.clamp(-BOUND, BOUND).flatten(-2).sum(-1) + 2.5).abs().mean())
    free = (chunk[:, 0].abs() < BOUND).float().mean(0)
    torch.manual_seed(2)
    loss.actor_loss(data)["loss_actor"].backward()
    bias = loss.residual.network.head.network.layers[-1].bias.grad
    assert bias.tolist() == pytest.approx((-2.0 / size * free).tolist(), rel=1e-3)
    assert 0.0 < float(free.min()) <= float(free.max()) < 1.0
    for still in (loss.qvalue_network, loss.steering_network):
        assert all(part.grad is None for part in still.parameters())


def test_leaving_the_start_costs_the_divergence_of_two_gaussians() -> None:
    loss, data = made(spread=0.5, kl_coef=0.2), transitions()
    std = 0.5 * LENGTH / math.sqrt(2.0)
    assert loss.std == pytest.approx(std)
    assert float(loss.actor_loss(data)["loss_kl"]) == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        loss.start_network.head.network.layers[-1].bias.zero_()
    found = loss.actor_loss(data)
    assert float(found["loss_kl"]) == pytest.approx(0.2 * 0.5 * 0.25 / std**2, rel=1e-4)
    assert float(found["residual_length"]) == pytest.approx(U * 0.5 / LENGTH, rel=1e-4)


def test_a_chunk_that_is_stored_is_not_decoded_again() -> None:
    loss, data = made(), transitions()
    for state in (data, data["next"]):
        state.set("base_chunk", torch.full((len(data), 4, 2), 0.01))
    chunk = torch.full((3, 2), 0.01)
    chunk[0] = (chunk[0] + U * torch.tensor(MEAN)).clamp(-BOUND, BOUND)
    total = chunk.sum()
    after = data["next"]
    value = torch.minimum(total + 5.0, 3.0 * total) * ~after["terminated"].squeeze(-1)
    expected = after["reward"].squeeze(-1) + GAMMA ** after[keys.STEPS].squeeze(-1) * value
    torch.testing.assert_close(loss.target(data), expected, rtol=1e-4, atol=1e-4)


def test_what_may_be_stored_is_drawn_from_the_steering_policy() -> None:
    loss, data = made(), transitions()
    torch.manual_seed(3)
    found = loss.base_chunk(data)
    torch.manual_seed(3)
    noise = loss.steering_network.distribution(data).sample()
    assert torch.equal(found, policy().decode(noise, data["observation"]))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_decisions_is_moved_and_the_others_as_at_the_start(share: float) -> None:
    loss, states = made(), transitions(3000)
    with torch.no_grad():
        loss.residual.network.head.network.layers[-1].bias.neg_()
    loss.share = share
    chunk = torch.zeros(3000, 4, 2)
    moved = loss.explore(states, chunk)
    assert not moved.requires_grad
    first, rest = moved[:, 0], moved[:, 1:]
    assert not bool(rest.any())
    sign = (first / (U * torch.tensor(MEAN))).round()
    assert set(sign.unique().tolist()) <= {-1.0, 1.0}
    assert float((sign[:, 0] < 0).float().mean()) == pytest.approx(share, abs=0.03)


def test_noise_of_exploring_is_as_long_as_asked() -> None:
    loss, states = made(mean=(0.0, 0.0), spread=0.5), transitions(4000)
    m = loss.drawn(loss.actor_network.distribution(states).mean).detach()
    assert float(m.square().sum(-1).mean().sqrt()) == pytest.approx(0.5 * LENGTH, rel=0.05)
    moved = loss.explore(states, torch.zeros(4000, 4, 2))
    assert float(moved.flatten(1).norm(dim=-1).max()) < LENGTH


def test_it_is_a_loss_module_of_its_own() -> None:
    loss, data = made(), transitions()
    out = loss(data)
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) <= set(data.keys(True, True))
    assert keys.ACTION not in loss.in_keys
    assert not any("noise_map" in name for name in loss.state_dict())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected spread above 0 and finite, got 0"):
        made(spread=0.0)


def test_gradient_steps_move_the_chunk_to_where_it_pays() -> None:
    """A bandit that pays for a first number of .2 and a second of -.1, whatever the noise."""
    torch.manual_seed(0)
    loss = made(mean=(0.0, 0.0), spread=0.3, kl_coef=0.0)
    net = nn.Sequential(nn.Linear(6, 64), nn.Mish(), nn.Linear(64, 2))
    loss.qvalue_network.module.forward = lambda s, z, x: net(x.flatten(-2))
    actor = torch.optim.Adam(loss.residual.parameters(), 1e-2)
    values = torch.optim.Adam(net.parameters(), 1e-2)
    goal = torch.tensor([0.2, -0.1])
    for _ in range(300):
        data = transitions(128)
        data["next", "terminated"].fill_(True)
        first = data["next", keys.EXECUTED][:, 0]
        data["next", "reward"] = first @ goal[:, None]
        descend_in_turn(loss, data, values, actor)
    move = loss.residual.shift(transitions()).detach()
    assert bool((move[:, 0] > 0.2).all())
    assert bool((move[:, 1] < -0.1).all())
