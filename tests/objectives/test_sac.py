"""Soft actor-critic on the noise: targets and gradients against hand-computed values."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.objectives import NoiseSACLoss
from modereg.steering import SteeringPolicy
from tests.objectives.made import (
    CODES,
    GAMMA,
    Linear,
    check_climb,
    descend_in_turn,
    transitions,
)

SHAPE = (3, 1)


def made(**options: object) -> NoiseSACLoss:
    actor = SteeringPolicy(["observation"], 4, CODES, SHAPE, hidden=(8,))
    read = ["observation", keys.LATENT_FEATURES, keys.ACTION]
    critic = TensorDictModule(Linear(), read, ["state_action_value"])
    return NoiseSACLoss(actor, critic, **({"gamma": GAMMA, "kl_coef": 0.1} | options))


def batch(size: int = 6) -> TensorDict:
    return transitions(size, 4).set(keys.ACTION, torch.randn(size, *SHAPE))


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_the_target_is_hard_discounted_by_steps_and_bootstrapped_where_time_ran_out(
    reduction: str,
) -> None:
    """psi begins at N(0, I); the noise that it draws is drawn again here. No entropy is in it."""
    loss, data = made(reduction=reduction), batch()
    torch.manual_seed(3)
    found = loss.target(data)
    torch.manual_seed(3)
    noise = loss.actor_network.distribution(data["next"]).sample()
    total = noise.flatten(-2).sum(-1)
    both = torch.stack([total + 5.0, 3.0 * total])
    value = both.amin(0) if reduction == "min" else both.mean(0)
    for row in range(6):
        after = data["next"][row]
        expected = float(after["reward"])
        if not bool(after["terminated"]):
            expected += GAMMA ** int(after[keys.STEPS]) * float(value[row])
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)
    assert not found.requires_grad


def test_the_critics_loss_is_the_squared_error_of_each_member() -> None:
    loss, data = made(), batch()
    torch.manual_seed(1)
    found = loss.critic_loss(data)["loss_qvalue"]
    torch.manual_seed(1)
    target = loss.target(data)
    total = data[keys.ACTION].flatten(-2).sum(-1)
    errors = [(value - target).square().mean() for value in (total + 5.0, 3.0 * total)]
    expected = float(sum(errors).detach())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_policy_climbs_the_critic_and_leaves_it_alone() -> None:
    loss = made(reduction="mean", kl_coef=0.0)
    check_climb(loss, batch(), loss.qvalue_network)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_scale_of_the_reward_does_not_weigh_the_divergence(scale: float) -> None:
    loss, data, found = made(), batch(), []
    loss.actor_network.head.network.layers[-1].bias.data.fill_(0.5)
    for factor in (1.0, scale):
        with torch.no_grad():
            for parameter in loss.qvalue_network.parameters():
                parameter.mul_(factor)
        torch.manual_seed(0)
        found.append(float(loss.actor_loss(data)["loss_actor"].detach()))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_divergence_is_weighed_by_its_coefficient() -> None:
    loss, data = made(kl_coef=0.5), batch()
    loss.actor_network.head.network.layers[-1].bias.data.fill_(1.0)
    mean = 2.0 * torch.tanh(torch.tensor(0.5))
    assert float(loss.actor_loss(data)["loss_kl"]) == pytest.approx(0.5 * 1.5 * float(mean) ** 2)


def test_a_target_of_the_divergence_moves_its_coefficient() -> None:
    """By a factor of e^.003 a step at most, up where the policy is further than that."""
    loss = made(kl_coef=0.5, kl_target=0.4)
    for divergence, off in ((0.8, 1.0), (5.0, 1.0), (0.4, 0.0), (0.2, -0.5), (0.0, -1.0)):
        before = float(loss.kl_weight)
        loss.update_kl(torch.tensor(divergence))
        assert float(loss.kl_weight) == pytest.approx(before * math.exp(0.003 * off))
    assert loss.state_dict()["kl_weight"] == loss.kl_weight
    still = made(kl_coef=0.5)
    still.update_kl(torch.tensor(9.0))
    assert float(still.kl_weight) == 0.5


@pytest.mark.parametrize("options", [{"kl_target": 0.0}, {"kl_target": 1.0, "kl_coef": 0.0}])
def test_a_target_that_cannot_be_reached_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected kl_target above 0, and kl_coef above 0"):
        made(**options)


def test_the_target_network_follows() -> None:
    loss = made()
    with torch.no_grad():
        loss.qvalue_network.module.slope.fill_(2.0)
    loss.update_target(0.25)
    assert loss.target_network.module.slope.tolist() == pytest.approx([1.25, 2.75])
    assert not any(part.requires_grad for part in loss.target_network.parameters())


def test_it_is_a_loss_module_of_its_own() -> None:
    loss, data = made(), batch()
    out = loss(data)
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) <= set(data.keys(True, True))
    loss.set_keys(reward="regularized_reward")
    assert ("next", "regularized_reward") in loss.in_keys
    with pytest.raises(KeyMismatchError, match="'regularized_reward'"):
        loss(data)


def test_the_losses_of_a_batch_of_any_shape_are_means() -> None:
    loss, data = made(), batch(12)
    torch.manual_seed(0)
    flat = loss.critic_loss(data)["loss_qvalue"].detach()
    torch.manual_seed(0)
    shaped = loss.critic_loss(data.reshape(3, 4))["loss_qvalue"].detach()
    assert float(shaped) == pytest.approx(float(flat))


def test_padding_is_left_out() -> None:
    loss, data = made(), batch()
    padded = torch.cat([data, batch()])
    padded["next", "reward"][6:] = torch.nan
    padded["collector", "mask"] = torch.arange(12) < 6
    torch.manual_seed(0)
    expected = loss(data)
    torch.manual_seed(0)
    assert float(loss(padded)["loss_qvalue"].detach()) == pytest.approx(
        float(expected["loss_qvalue"].detach())
    )


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"reduction": "max"}, "expected reduction 'min' or 'mean', got 'max'"),
        ({"gamma": 1.5}, r"expected a discount in \[0, 1\], got 1.5"),
        ({"kl_coef": -1.0}, "expected kl_coef of at least 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        made(**option)


def test_gradient_steps_find_the_better_noise() -> None:
    """A bandit: the reward is largest where each noise is 1, and the policy goes there."""
    torch.manual_seed(0)
    loss = made(kl_coef=0.001)
    net = nn.Sequential(nn.Linear(3, 64), nn.Mish(), nn.Linear(64, 2))
    critic = TensorDictModule(
        lambda s, z, w: net(w.flatten(-2)), loss.qvalue_network.in_keys, ["state_action_value"]
    )
    loss = NoiseSACLoss(loss.actor_network, critic, gamma=GAMMA, kl_coef=0.001)
    actor = torch.optim.Adam(loss.actor_network.parameters(), 1e-2)
    values = torch.optim.Adam(net.parameters(), 1e-2)
    before = copy.deepcopy(dict(loss.actor_network.state_dict()))
    for _ in range(300):
        data = batch(128)
        data["next", "terminated"].fill_(True)
        data["next", "reward"] = -(data[keys.ACTION] - 1.0).square().flatten(-2).mean(-1)[:, None]
        descend_in_turn(loss, data, values, actor)
    mean = loss.actor_network.distribution(batch()).deterministic_sample
    assert float((mean - 1.0).abs().mean().detach()) < 0.3
    assert any(not torch.equal(before[k], v) for k, v in loss.actor_network.state_dict().items())
