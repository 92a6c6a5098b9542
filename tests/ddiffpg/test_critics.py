from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modereg.ddiffpg.critics import ModeCritics
from modereg.errors import ConfigurationError, ShapeError


def _critics(slots: int = 1, **options: int) -> ModeCritics:
    torch.manual_seed(0)
    return ModeCritics(2, 1, slots, hidden=(32,), octaves=1, **options)


def _fit(critics: ModeCritics, rewards: Tensor, states: Tensor, actions: Tensor) -> None:
    optimizer = torch.optim.Adam(critics.networks.parameters(), 1e-2)
    for _ in range(150):
        wanted = critics.backup(rewards, torch.zeros_like(rewards), states, actions)
        loss = critics.loss(states, actions, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_each_slot_learns_rewards_of_its_own_however_large() -> None:
    """DDiffPG's support ends at 5 where its reward is 10."""
    critics = _critics(2)
    critics.set_support(1, 0.0, 12.5)
    states, actions = torch.rand(2, 64, 2), 2.0 * torch.rand(2, 64, 1) - 1.0
    rewards = torch.stack([0.5 * (actions[0, :, 0] > 0), 10.0 * (actions[1, :, 0] < 0)])
    _fit(critics, rewards, states, actions)
    values = critics.value(states, actions).detach()
    assert float((values[0] - rewards[0]).abs().mean()) < 0.05
    assert float((values[1] - rewards[1]).abs().mean()) < 1.0
    assert float(values[1][rewards[1] > 0].mean()) > 9.0


def test_a_support_says_what_it_covers() -> None:
    critics = _critics(2)
    assert critics.covers(0, torch.tensor([0.0, 1.0]))
    assert not critics.covers(0, torch.tensor([10.0]))
    critics.set_support(0, -2.0, 10.0)
    assert critics.covers(0, torch.tensor([[-2.0], [10.0]]))
    assert critics.covers(1, torch.tensor(1.0))
    assert not critics.covers(1, torch.tensor(1.5))


def test_a_backup_is_a_distribution_around_reward_and_discounted_value() -> None:
    critics = _critics()
    critics.set_support(0, -1.0, 3.0)
    states, actions, discounts = torch.rand(1, 9, 2), torch.rand(1, 9, 1), torch.full((1, 9), 0.5)
    rewards = torch.full((1, 9), 0.25)
    found = critics.backup(rewards, discounts, states, actions)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 9))
    mean = (found * critics.atoms[:, None]).sum(-1)
    value = (critics.probs(states, actions, target=True) * critics.atoms[:, None]).sum(-1).amin(0)
    torch.testing.assert_close(mean, rewards + 0.5 * value)
    ended = critics.backup(rewards, torch.zeros(1, 9), states, actions)
    torch.testing.assert_close((ended * critics.atoms[:, None]).sum(-1), rewards)


def test_slots_begin_as_those_that_they_come_from() -> None:
    critics = _critics(3)
    critics.set_support(2, 0.0, 7.0)
    made = critics.rearranged([0, 2, 2, 1])
    states, actions = torch.rand(1, 5, 2), torch.rand(1, 5, 1)
    before = critics.probs(states.expand(3, -1, -1), actions.expand(3, -1, -1))
    after = made.probs(states.expand(4, -1, -1), actions.expand(4, -1, -1))
    torch.testing.assert_close(after, before[:, [0, 2, 2, 1]])
    assert made.atoms[:, -1].tolist() == [1.0, 7.0, 7.0, 1.0]
    made.networks.weights[0].data.zero_()
    assert bool((critics.networks.weights[0] != 0).any()), "they share nothing"


def test_targets_follow_slowly() -> None:
    critics = _critics()
    before = [part.clone() for part in critics.targets.parameters()]
    for part in critics.networks.parameters():
        part.data += 1.0
    critics.update_targets(0.25)
    for old, new in zip(before, critics.targets.parameters()):
        torch.testing.assert_close(new, old + 0.25)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="one slot and two atoms"):
        _critics(atoms=1)
    for low, high in ((1.0, 1.0), (0.0, float("inf"))):
        with pytest.raises(ConfigurationError, match="begins below its end"):
            _critics().set_support(0, low, high)
    with pytest.raises(ConfigurationError, match="slots of 1"):
        _critics().rearranged([1])
    with pytest.raises(ShapeError, match="rows of 1 slots"):
        _critics().value(torch.zeros(2, 3, 2), torch.zeros(2, 3, 1))
