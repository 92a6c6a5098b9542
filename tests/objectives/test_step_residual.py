"""A residual on single steps: TD3's target and gradient against hand-computed values."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.data import Bounded

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.objectives import StepResidualLoss
from modereg.residual import StepResidual
from tests.objectives.made import BOUND, CODES, GAMMA, Linear, descend_in_turn

LENGTH, MEAN = 0.6, (0.3, -0.4)
U = LENGTH / math.sqrt(LENGTH**2 + 0.25)  # of |m| = 1/2: what each number of m is shortened by


def made(mean: tuple[float, float] = MEAN, **options: Any) -> StepResidualLoss:
    """Return the loss of a residual whose m is the same everywhere, along each number."""
    torch.manual_seed(0)
    read = [keys.OBSERVATION, keys.BASE_ACTION]
    moving = StepResidual.at_zero(read, 5, CODES, torch.eye(2), bound=LENGTH, hidden=(8,))
    _set_mean(moving.network, mean)
    critic = TensorDictModule(
        Linear(), [keys.OBSERVATION, keys.LATENT_FEATURES, keys.PLAYED], ["state_action_value"]
    )
    action = Bounded(-BOUND, BOUND, (2,))
    given = {"gamma": GAMMA, "kl_coef": 0.1, "smoothing": 0.0} | options
    return StepResidualLoss(moving, critic, action, **given)


def _set_mean(network: Any, mean: tuple[float, float]) -> None:
    with torch.no_grad():  # the mean is 2 tanh(m / 2)
        raw = 2.0 * torch.atanh(torch.tensor(mean) / 2.0)
        network.head.network.layers[-1].bias.copy_(raw)


def steps(size: int = 6) -> TensorDict:
    """Return steps of which every third ends its episode."""

    def state() -> dict[str, Tensor]:
        return {
            keys.OBSERVATION: torch.randn(size, 3),
            keys.LATENT_FEATURES: torch.eye(CODES)[torch.arange(size) % CODES],
            keys.BASE_ACTION: torch.randn(size, 1, 2).clamp(-BOUND, BOUND),
        }

    after = state() | {
        keys.REWARD: torch.randn(size, 1),
        keys.PLAYED: torch.randn(size, 1, 2).clamp(-BOUND, BOUND),
        "terminated": torch.arange(size)[:, None] % 3 == 0,
        keys.STEPS: 1 + torch.arange(size)[:, None] % 3,
    }
    return TensorDict({**state(), "next": after}, [size])


def played(base: Tensor, mean: tuple[float, float] = MEAN) -> Tensor:
    return (base + U * torch.tensor(mean)).clamp(-BOUND, BOUND)


def test_the_target_is_the_least_value_of_what_the_target_policy_plays() -> None:
    loss, data = made(), steps()
    _set_mean(loss.actor_network, (1.0, 1.0))  # which the target network does not follow yet
    after = data["next"]
    total = played(after[keys.BASE_ACTION]).flatten(-2).sum(-1)
    value = torch.minimum(total + 5.0, 3.0 * total)
    ended, n = after["terminated"].squeeze(-1), after[keys.STEPS].squeeze(-1)
    expected = after["reward"].squeeze(-1) + GAMMA**n * torch.where(ended, 0.0, value)
    torch.testing.assert_close(loss.target(data), expected, rtol=1e-4, atol=1e-4)
    loss.update_target(1.0)
    assert float((loss.target(data) - expected).abs().max()) > 0.1


def test_the_noise_of_the_target_is_clipped() -> None:
    loss, data = made(smoothing=1.0, spread=0.2), steps(20_000)["next"]
    data[keys.BASE_ACTION].zero_()
    moved = loss.next_taken(data).squeeze(-2)
    shift = LENGTH * moved / (LENGTH**2 - moved.square().sum(-1, keepdim=True)).sqrt()
    away = (shift - torch.tensor(MEAN)) / loss.std
    assert float(away.std()) == pytest.approx(0.97, abs=0.03)
    assert float(away.abs().max()) == pytest.approx(2.5, abs=0.01)
    assert float((made(smoothing=0.0).next_taken(data) - played(torch.zeros(2))).abs().max()) < 1e-6


def test_a_subset_of_the_critics_is_drawn_for_the_target_and_all_lead_the_policy() -> None:
    loss = made(subset=1)
    values = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    found = {tuple(loss.bootstrapped(values).tolist()) for _ in range(40)}
    assert found == {(1.0, 4.0), (2.0, 3.0)}
    assert made().bootstrapped(values).tolist() == [1.0, 3.0]
    assert loss._reduced(values).tolist() == [1.5, 3.5]


def test_the_residual_climbs_the_mean_of_the_critics_where_it_is_not_clipped() -> None:
    """Q is twice the sum plus 2.5; near m = 0 dQ/dm is 2 within the bounds, over the size of Q."""
    loss, data = made(mean=(0.01, 0.01), kl_coef=0.0), steps(50)
    moved = data[keys.BASE_ACTION] + 0.01
    size = float((2.0 * moved.clamp(-BOUND, BOUND).flatten(-2).sum(-1) + 2.5).abs().mean())
    free = (moved.abs() < BOUND).float().mean(0).squeeze(0)
    loss.actor_loss(data)["loss_actor"].backward()
    bias = loss.residual.network.head.network.layers[-1].bias.grad
    assert bool((free < 1).all())
    assert bias.tolist() == pytest.approx((-2.0 / size * free).tolist(), rel=1e-2)
    frozen = (loss.qvalue_network, loss.target_network, loss.target_actor_network)
    assert all(value.grad is None for part in frozen for value in part.parameters())


def test_what_is_explored_is_the_bases_action_and_a_draw() -> None:
    loss, state = made(spread=0.3), steps(4000).exclude("next")
    moved = loss.explore(state, state[keys.BASE_ACTION]) - state[keys.BASE_ACTION]
    assert float(moved.norm(dim=-1).max()) < LENGTH
    assert torch.allclose(moved.mean(0).flatten(), U * torch.tensor(MEAN), atol=0.03)
    assert float(moved.std(0).min()) > 0.05


def test_descent_brings_the_residual_to_where_the_critic_says() -> None:
    """Of values that grow with the sum of what is played, in a loop of one's own."""
    loss, data = made(mean=(0.0, 0.0), kl_coef=0.0), steps(64)
    data["next", keys.REWARD] = data["next", keys.PLAYED].sum((-2, -1)).unsqueeze(-1)
    data["next", "terminated"].fill_(True)
    critic = torch.optim.Adam(loss.qvalue_network.parameters(), 0.05)
    actor = torch.optim.Adam(loss.actor_network.head.network.parameters(), 0.01)
    for _ in range(150):
        descend_in_turn(loss, data, critic, actor)
        loss.update_target(0.05)
    mean = loss.actor_network.distribution(data).mean.mean(0).detach()
    assert float(mean.min()) > 0.3


def test_nested_keys() -> None:
    loss, data = made(), steps()
    expected = loss(data.clone())
    data["next"].rename_key_(keys.PLAYED, ("sent", "now"))
    other = made()
    other.qvalue_network.module, read = loss.qvalue_network.module, loss.qvalue_network.in_keys
    other.qvalue_network.in_keys = other.target_network.in_keys = [*read[:2], ("sent", "now")]
    other.set_keys(executed=("sent", "now"))
    found = other(data)
    assert {*found.keys()} == {*other.out_keys} == {*loss.out_keys}
    torch.testing.assert_close(found["loss_qvalue"], expected["loss_qvalue"])
    assert ("next", "sent", "now") in other.in_keys
    assert ("next", keys.BASE_ACTION) in other.in_keys


def test_a_step_without_the_bases_action_is_refused() -> None:
    with pytest.raises(KeyMismatchError, match="reads 'base_action', which the tensordict lacks"):
        made().actor_loss(steps().exclude(keys.BASE_ACTION))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"smoothing": -1.0}, "expected smoothing of at least 0, got -1.0"),
        ({"subset": 0}, "expected a subset of at least 1 member, got 0"),
        ({"spread": 0.0}, "expected spread above 0 and finite, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        made(**option)
