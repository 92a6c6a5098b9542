from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery.decoders import OBSERVED, ExactDecoder
from modereg.discovery.guidance import CodeStates, guide
from modereg.discovery.outcome import OutcomeModel
from modereg.steering import NoiseNormal, SteeringPolicy
from tests.discovery import toys

ROWS = 3000
DECIDES = (1, 0)
"""The component of the noise that decides."""


@pytest.fixture(scope="module")
def fitted() -> tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates]:
    """Return Q, the decoder, rows and states of the toy."""
    torch.manual_seed(0)
    rows, _, data, model = toys.episodes(ROWS)
    model.fit(data, 300)
    rows.set(OBSERVED, data.observations)
    decode = ExactDecoder(toys.policy(), toys.LAYOUT, model.chunk_features, lambda noise: noise)
    return model, decode, rows, CodeStates(data.outcomes, data.players, 2)


def steered(
    fitted: tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates],
    kl_coef: tuple[float, float],
    steps: int = 200,
) -> tuple[SteeringPolicy, dict[str, float]]:
    """Return a steering policy after guiding it, and the figures."""
    model, decode, rows, states = fitted
    steering = SteeringPolicy(["observation"], toys.OBS, 2, toys.SHAPE, hidden=(32,))
    players = torch.full((2,), model.base)
    weights = torch.tensor(kl_coef)
    return steering, guide(
        steering, model, decode, rows.clone(), states, players, weights, steps, learning_rate=1e-2
    )


@torch.no_grad()
def psi(steering: SteeringPolicy, code: int) -> NoiseNormal:
    """Return psi at observation 0."""
    one_hot = torch.nn.functional.one_hot(torch.tensor([code]), 2).float()
    rows = TensorDict({"observation": torch.zeros(1, toys.OBS), keys.LATENT_FEATURES: one_hot}, [1])
    return steering.distribution(rows)


@torch.no_grad()
def objective(model: OutcomeModel, code: int, mean: Tensor, std: Tensor, beta: float) -> Tensor:
    """Return what is maximised, at observation 0, of Gaussians of the component that decides."""
    noise = torch.randn(400, *toys.SHAPE)
    value = []
    for m, s in zip(mean.tolist(), std.tolist(), strict=True):
        moved = noise.clone()
        moved[:, *DECIDES] = m + s * noise[:, *DECIDES]
        rows = TensorDict({"observation": torch.zeros(400, toys.OBS)}, [400])
        observed = model.observe(rows)
        chunks = toys.policy().decode_from(rows, moved)[:, 1:4]
        features = model.chunk_features(observed, chunks)
        players = torch.full((400,), model.base)
        reached = model.log_prob(observed, features, players).mean(0)[:, code].mean()
        value.append(reached - beta * 0.5 * (m**2 + s**2 - 1 - 2 * math.log(s)))
    return torch.stack(value)


@pytest.mark.parametrize("code", [0, 1])
def test_psi_moves_to_the_optimum(
    fitted: tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates], code: int
) -> None:
    """With a beta of .3; the optimum is found by trying means and deviations one by one."""
    steering, _ = steered(fitted, (0.3, 0.3))
    means, stds = torch.linspace(-2, 2, 21), torch.linspace(0.3, 1.3, 11)
    mean, std = (axis.flatten() for axis in torch.meshgrid(means, stds, indexing="ij"))
    best = objective(fitted[0], code, mean, std, 0.3).argmax()
    found = psi(steering, code).base_dist
    assert float(found.loc[0, *DECIDES]) == pytest.approx(float(mean[best]), abs=0.35)
    assert float(found.scale[0, *DECIDES]) == pytest.approx(float(std[best]), abs=0.25)
    rest = found.loc[0].flatten()[torch.arange(8) != 2]
    assert float(rest.abs().mean()) < 0.25


def test_its_codes_are_then_reached_as_often_as_chance_lets(
    fitted: tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates],
) -> None:
    steering, figures = steered(fitted, (0.02, 0.02))
    rows = TensorDict({"observation": torch.randn(1000, toys.OBS)}, [1000])
    for code in (0, 1):
        one_hot = torch.nn.functional.one_hot(torch.full((1000,), code), 2).float()
        with torch.no_grad():
            noise = steering(rows.set(keys.LATENT_FEATURES, one_hot)).get(keys.ACTION)
        chunks = toys.policy().decode_from(rows, noise)[:, 1:4]
        assert float(toys.chance(chunks)[:, code].mean().detach()) > 0.9 * toys.LUCK
    assert figures["log_outcome"] == pytest.approx(math.log(toys.LUCK), abs=0.15)
    assert figures["kl"] > 0.5


def test_a_heavy_kl_keeps_it_at_the_base(
    fitted: tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates],
) -> None:
    steering, figures = steered(fitted, (100.0, 100.0))
    assert figures["kl"] < 0.02
    assert float(psi(steering, 1).base_dist.loc.abs().max()) < 0.1


def test_each_code_has_a_weight_of_its_own(
    fitted: tuple[OutcomeModel, ExactDecoder, TensorDict, CodeStates],
) -> None:
    steering, _ = steered(fitted, (100.0, 0.05))
    first, second = (float(psi(steering, code).base_dist.loc[0, *DECIDES]) for code in (0, 1))
    assert abs(first) < 0.2
    assert second > 0.6


def test_a_code_that_reaches_itself_whatever_was_played_is_left_alone() -> None:
    """If code 1 plays on, it is reached in any case, and no chunk is better than another."""
    rows, _, data, model = toys.episodes(ROWS)
    commanded = torch.rand(ROWS) < 0.5
    data.players[commanded], data.outcomes[commanded] = 1, 1
    model.fit(data, 300)
    rows.set(OBSERVED, data.observations)
    decode = ExactDecoder(toys.policy(), toys.LAYOUT, model.chunk_features, lambda noise: noise)
    steering = SteeringPolicy(["observation"], toys.OBS, 2, toys.SHAPE, hidden=(32,))
    states = CodeStates(data.outcomes, data.players, 2)
    players = torch.tensor([model.base, 1])
    guide(
        steering, model, decode, rows, states, players, torch.full((2,), 0.1), 200,
        learning_rate=1e-2,
    )  # fmt: skip
    first, second = (float(psi(steering, code).base_dist.loc[0, *DECIDES]) for code in (0, 1))
    assert first < -0.6
    assert abs(second) < 0.3


def test_codes_are_drawn_equally_and_mostly_where_they_were_reached_or_commanded() -> None:
    outcomes = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
    codes = torch.tensor([2] * 98 + [1] * 2)
    states = CodeStates(outcomes, codes, 2)
    rows, code = states.draw(20_000)
    assert float((code == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    own = torch.isin(rows[code == 1], torch.tensor([90, 91, 92, 93, 94, 98, 99]))
    assert float(own.float().mean()) == pytest.approx(0.75 + 0.25 * 0.07, abs=0.02)
    assert set(rows[code == 0].tolist()) == set(range(100))


def test_a_code_that_nothing_reached_is_drawn_anywhere() -> None:
    states = CodeStates(torch.zeros(10, dtype=torch.int64), torch.full((10,), 2), 2)
    rows, code = states.draw(1000)
    assert set(rows[code == 1].tolist()) == set(range(10))
