"""What is told of an action, against what a step of the environment plays of it."""

from __future__ import annotations

import pytest
import torch

from modereg import keys
from modereg.decoding import ChunkDecoder, find_transform
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.noise_bases import repeated_basis
from modereg.residual import ChunkResidual
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import NoiseAction
from modereg.wrapping import SteeredEnv, make_steering, steer_env


class Stacked(TinyPolicy):
    """Reads two observations."""

    observation_steps = 2

    def decode(self, noise: torch.Tensor, *observations: torch.Tensor) -> torch.Tensor:
        return super().decode(noise, *(part.flatten(-2) for part in observations))


def moving() -> ChunkResidual:
    made = ChunkResidual.at_zero([keys.OBSERVATION], 3, 2, torch.randn(3, 4), bound=2.0, offset=1)
    torch.nn.init.normal_(made.network.head.network.layers[-1].bias, std=2.0)
    return made.requires_grad_(False)


def steered(case: str) -> SteeredEnv:
    torch.manual_seed(0)
    policy = Stacked(6) if case == "stacked" else TinyPolicy(3)
    basis = repeated_basis(policy.noise_shape) if case == "basis" else None
    layout = Layout(12, execute=2, offset=1, noise_basis=basis)
    residual = moving() if case == "residual" else None
    bound = None if case == "unbounded" else 0.5
    return steer_env(CountingEnv([3, 7, 5, 12], bound=bound), policy, 2, layout, residual)


@pytest.mark.parametrize("case", ["plain", "unbounded", "stacked", "residual"])
def test_it_is_what_the_environment_played(case: str) -> None:
    """At any number of states at once, however many the environment has."""
    env = steered(case)
    steering = make_steering(env, env.transform[-3].policy, 2, hidden=(8,))
    with torch.no_grad():
        rows = env.rollout(5, steering, break_when_any_done=False).reshape(-1)
        decoder = ChunkDecoder(env)
        found = decoder(rows.select(*decoder.in_keys), rows[keys.ACTION])
    executed = rows["next", keys.EXECUTED]
    assert found.shape == (20, 2, 2)
    torch.testing.assert_close(found, executed)
    assert bool((found.abs() == 0.5).any()) == (case != "unbounded")
    if case == "residual":
        moved = decoder.executed(decoder.decode(rows, rows[keys.ACTION])) - executed
        assert float(moved.abs().max()) > 0.1


def test_what_a_basis_leaves_out_is_drawn_as_in_a_step() -> None:
    env = steered("basis")
    decoder = ChunkDecoder(env)
    rows = env.rollout(1).reshape(-1)[:1].expand(4000).clone()
    action = torch.full((4000, 2), 0.7)
    found = decoder(rows, action)
    noise = torch.randn(4000, 4, 2)
    noise = noise - noise.mean(1, keepdim=True) + 0.7 / 2.0  # sqrt(4) times the mean is 0.7
    policy = find_transform(env, NoiseAction).policy
    expected = policy.decode(noise, rows[keys.OBSERVATION])[:, 1:3].clamp(-0.5, 0.5)
    torch.testing.assert_close(found.mean(0), expected.mean(0), atol=0.03, rtol=0.0)
    torch.testing.assert_close(found.std(0), expected.std(0), atol=0.03, rtol=0.0)


def test_what_is_executed_has_a_gradient_where_it_is_not_clipped() -> None:
    decoder = ChunkDecoder(steered("plain"))
    chunk = torch.tensor([0.2, 0.4, 0.9, -0.3]).repeat(2, 1).mT[None].clone().requires_grad_()
    decoder.executed(chunk).sum().backward()
    assert chunk.grad[0].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_an_environment_that_is_not_steered_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got CountingEnv without NoiseAction; make it by"):
        ChunkDecoder(CountingEnv([3]))
