from __future__ import annotations

import pytest
import torch

from modereg import keys
from tests.learners.made import problem


def test_a_critic_of_noises_is_scaled_like_the_steering_policy() -> None:
    made = problem()
    features = made.steering.head.network.features
    features.fit(torch.randn(50, 3) * 3)
    critic = made.make_qvalue(5)
    assert critic.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES, keys.ACTION]
    assert torch.equal(critic.module.features.shift, features.shift)
    noise = torch.randn(2, *made.steering.noise_shape)
    values = critic.module(torch.zeros(2, 3), torch.eye(2), noise).detach()
    assert values.shape == (2, 5)
    assert len(values[0].unique()) == 5


def test_a_critic_of_chunks_reads_them_as_they_vary() -> None:
    """What is as far from the mean, in deviations, is worth as much, whatever the unit."""
    made = problem()
    critic, chunks = made.make_chunk_qvalue(3), torch.randn(100, 3, 2)
    assert critic.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES, keys.EXECUTED]
    state = (torch.zeros(100, 3), torch.eye(2)[torch.arange(100) % 2])
    found = []
    for unit in (1.0, 1e-3):
        critic.module.scaled.fit((unit * chunks + 5.0).flatten(1))
        found.append(critic.module(*state, unit * chunks + 5.0).detach())
    assert found[0].shape == (100, 3)
    assert float(found[0].std(0).min()) > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2)


def test_a_new_residual_moves_nothing_and_reads_what_the_steering_policy_reads() -> None:
    made = problem()
    features = made.steering.head.network.features
    features.fit(torch.randn(50, 3) * 3)
    residual = made.make_residual(4, 0.7)
    assert residual.in_keys == [keys.OBSERVATION, keys.LATENT_FEATURES]
    assert torch.equal(residual.network.head.network.features.scale, features.scale)
    root, chunk = made.env.reset(), torch.randn(4, 4, 2)
    assert torch.equal(residual(root, chunk), chunk)
    assert residual.directions.shape == (4, 6)
    assert made.make_residual(9, 0.7).directions.shape == (6, 6)  # 3 actions of 2
    assert (residual.bound, residual.offset) == (pytest.approx(0.7), made.layout.offset)
