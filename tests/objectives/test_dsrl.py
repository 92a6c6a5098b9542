"""DSRL with noise aliasing: targets and gradients against hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.objectives import DSRLLoss
from modereg.steering import SteeringPolicy
from tests.objectives.made import (
    BOUND,
    CODES,
    GAMMA,
    Linear,
    check_climb,
    chunk_critic,
    decoder,
    policy,
    transitions,
)

SHAPE = (4, 2)


def made(**options: Any) -> DSRLLoss:
    actor = SteeringPolicy(["observation"], 3, CODES, SHAPE, hidden=(8,))
    read = ["observation", keys.LATENT_FEATURES, keys.ACTION]
    noises = TensorDictModule(Linear(), read, ["state_action_value"])
    options = {"gamma": GAMMA, "kl_coef": 0.1} | options
    return DSRLLoss(actor, chunk_critic(), noises, decoder(), **options)


def executed(noise: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
    """Return the sum of what is executed: 3 of 4 actions, each within a half."""
    chunk = policy().decode(noise, observation)[:, :3]
    return chunk.clamp(-BOUND, BOUND).flatten(-2).sum(-1)


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_the_target_is_the_value_of_the_chunk_that_the_policy_would_play(reduction: str) -> None:
    """Hard, discounted by steps, and bootstrapped where nothing but time ended the episode."""
    loss, data = made(reduction=reduction), transitions()
    torch.manual_seed(3)
    found = loss.target(data)
    torch.manual_seed(3)
    after = data["next"]
    noise = loss.actor_network.distribution(after).sample()
    total = executed(noise, after["observation"])
    both = torch.stack([total + 5.0, 3.0 * total])
    value = both.amin(0) if reduction == "min" else both.mean(0)
    for row in range(6):
        expected = float(after[row]["reward"])
        if not bool(after[row]["terminated"]):
            expected += GAMMA ** int(after[row][keys.STEPS]) * float(value[row])
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)
    assert not found.requires_grad


def test_the_critic_learns_from_chunks_of_which_nobody_knows_the_noise() -> None:
    loss, data = made(), transitions()
    assert keys.ACTION not in loss.in_keys
    torch.manual_seed(1)
    found = loss.critic_loss(data)["loss_qvalue"]
    torch.manual_seed(1)
    target = loss.target(data)
    total = data["next", keys.EXECUTED].flatten(-2).sum(-1)
    errors = [(value - target).square().mean() for value in (total + 5.0, 3.0 * total)]
    assert float(found.detach()) == pytest.approx(float(sum(errors)), rel=1e-5)


@pytest.mark.parametrize("draws", [1, 3])
def test_each_member_of_the_critic_of_noises_learns_from_its_own(draws: int) -> None:
    """By its noise's chunk; the critic of chunks has no gradient of it, and the decoder none."""
    loss, data = made(draws=draws), transitions()
    loss.noise_qvalue_network.module.offset.data.copy_(torch.tensor([1.0, 2.0]))
    torch.manual_seed(5)
    found = loss.distillation_loss(data)["loss_noise_qvalue"]
    torch.manual_seed(5)
    states = torch.cat([data.select(*loss.state_keys)] * draws)
    noise = loss.distilled_noise(states)
    total, chunk = noise.flatten(-2).sum(-1), executed(noise, states["observation"])
    first = ((total + 1.0) - (chunk + 5.0)).square().mean()
    second = ((3.0 * total + 2.0) - 3.0 * chunk).square().mean()
    assert float(found.detach()) == pytest.approx(float(first + second), rel=1e-4)
    found.backward()
    assert all(part.grad is None for part in loss.qvalue_network.parameters())
    assert all(part.grad is None for part in loss.actor_network.parameters())
    assert all(part.grad is not None for part in loss.noise_qvalue_network.parameters())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_noises_are_drawn_where_the_policy_is_and_where_it_could_go(share: float) -> None:
    loss, states = made(prior_share=share), transitions(4000)
    loss.actor_network.head.network.layers[-1].bias.data.fill_(10.0)  # a mean of 2
    loss.actor_network.set_std(0.1)
    noise = loss.distilled_noise(states)
    near = (noise > 1.0).flatten(1).all(1).float().mean()  # of the prior 0.16^8
    assert float(near) == pytest.approx(1.0 - share, abs=0.03)
    if share:
        prior = noise[~(noise > 1.0).flatten(1).all(1)]
        assert float(prior.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(prior.std()) == pytest.approx(1.0, abs=0.03)


def test_the_policy_climbs_the_critic_of_noises_and_leaves_both_alone() -> None:
    loss = made(reduction="mean", kl_coef=0.0)
    check_climb(loss, transitions(), loss.qvalue_network, loss.noise_qvalue_network)


def test_only_the_critic_of_chunks_has_a_target_and_the_base_is_no_part_of_it() -> None:
    loss = made()
    with torch.no_grad():
        loss.qvalue_network.module.slope.fill_(2.0)
        loss.noise_qvalue_network.module.slope.fill_(7.0)
    loss.update_target(0.25)
    assert loss.target_network.module.slope.tolist() == pytest.approx([1.25, 2.75])
    assert not any("noise_map" in name for name in loss.state_dict())


def test_it_is_a_loss_module_of_its_own() -> None:
    loss, data = made(), transitions()
    out = loss(data)
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) <= set(data.keys(True, True))
    loss.set_keys(executed="chunk_of_mine")
    assert ("next", "chunk_of_mine") in loss.in_keys
    with pytest.raises(KeyMismatchError, match="'chunk_of_mine'"):
        loss(data)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"prior_share": 1.5}, r"expected prior_share in \[0, 1\], got 1.5"),
        ({"draws": 0}, "expected draws of at least 1, got 0"),
        ({"reduction": "max"}, "expected reduction 'min' or 'mean', got 'max'"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        made(**option)


def test_gradient_steps_find_the_noise_of_the_better_chunk() -> None:
    """A bandit that pays for chunks near a third, learned from random chunks alone."""
    torch.manual_seed(0)
    loss = made(kl_coef=0.001)
    nets = [nn.Sequential(nn.Linear(n, 64), nn.Mish(), nn.Linear(64, 2)) for n in (6, 8)]
    critics = [
        TensorDictModule(
            lambda s, z, x, net=net: net(x.flatten(-2)), critic.in_keys, ["state_action_value"]
        )
        for net, critic in zip(nets, (loss.qvalue_network, loss.noise_qvalue_network))
    ]
    loss = DSRLLoss(loss.actor_network, *critics, decoder(), gamma=GAMMA, kl_coef=0.001)
    optimizers = [torch.optim.Adam(part.parameters(), 1e-2) for part in (*nets, loss.actor_network)]
    names = ("loss_qvalue", "loss_noise_qvalue", "loss_actor")
    parts = (loss.critic_loss, loss.distillation_loss, loss.actor_loss)

    def regret() -> float:
        data = transitions(512)
        noise = loss.actor_network.distribution(data).deterministic_sample
        return float((loss.decoder(data, noise) - 0.3).square().mean().detach())

    before = regret()
    for _ in range(200):
        data = transitions(128)
        data["next", "terminated"].fill_(True)
        data["next", "reward"] = (
            -(data["next", keys.EXECUTED] - 0.3).square().sum((-2, -1))[:, None]
        )
        for optimizer, name, part in zip(optimizers, names, parts):
            optimizer.zero_grad()
            part(data)[name].backward()
            optimizer.step()
    assert regret() < 0.4 * before
