from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery.best_of import BestOf
from modereg.discovery.outcome import OutcomeModel
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.layout import Layout
from modereg.policies import as_generative_policy
from modereg.rollouts import collect_episodes
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import steer_env
from tests.discovery import toys

NOISE = 8


@pytest.fixture(scope="module")
def model() -> OutcomeModel:
    """Q of the toy, fitted."""
    torch.manual_seed(0)
    _, _, data, model = toys.episodes(3000)
    model.fit(data, 300)
    return model


def rows(*size: int, code: int | None = None) -> TensorDict:
    data = TensorDict({"observation": torch.randn(*size, toys.OBS)}, size)
    if code is not None:
        one_hot = torch.nn.functional.one_hot(torch.full(size, code), 2).float()
        data.set(keys.LATENT_FEATURES, one_hot)
    return data


def reached(best_of: BestOf, code: int) -> float:
    """Return how often a code is reached, by the true chances."""
    seen = rows(1000, code=code)
    noise = best_of(seen).get(keys.ACTION)
    chunks = toys.policy().decode_from(seen, noise)[:, 1:4]
    return float(toys.chance(chunks)[:, code].mean())


@pytest.mark.parametrize("code", [0, 1])
def test_the_best_of_many_noises_does_what_its_code_wants(model: OutcomeModel, code: int) -> None:
    best_of = BestOf(toys.policy(), model, toys.LAYOUT)
    assert reached(best_of, code) > 0.9 * toys.LUCK
    few = BestOf(toys.policy(), model, toys.LAYOUT, num_draws=2)
    assert toys.LUCK / 2 + 0.1 < reached(few, code) < reached(best_of, code) - 0.05


def test_the_best_of_one_is_the_base(model: OutcomeModel) -> None:
    best_of = BestOf(toys.policy(), model, toys.LAYOUT, num_draws=1)
    noise = best_of(rows(4000, code=1)).get(keys.ACTION)
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [(), (5,), (3, 2)])
def test_the_chunk_for_deployment_is_that_of_the_noise(
    model: OutcomeModel, size: tuple[int, ...]
) -> None:
    best_of = BestOf(toys.policy(), model, toys.LAYOUT, code=1)
    seen = rows(*size)
    torch.manual_seed(3)
    noise = best_of(seen.clone()).get(keys.ACTION)
    torch.manual_seed(3)
    chunk = best_of.decode(seen)
    assert chunk.shape == (*size, *toys.SHAPE)
    torch.testing.assert_close(chunk, toys.policy().decode_from(seen, noise))
    assert list(seen.keys()) == ["observation"]


def test_a_large_batch_is_decoded_in_parts(model: OutcomeModel) -> None:
    sizes: list[int] = []

    def decode(noise: Tensor, observation: Tensor) -> Tensor:
        sizes.append(len(noise))
        return noise.tanh()

    policy = as_generative_policy(
        decode, in_keys=["observation"], noise_shape=toys.SHAPE, chunk_shape=toys.SHAPE
    )
    best_of = BestOf(policy, model, toys.LAYOUT, num_draws=4, code=0, max_decodes=10)
    sizes.clear()
    assert best_of(rows(5)).get(keys.ACTION).shape == (5, *toys.SHAPE)
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize("basis", [None, torch.linalg.qr(torch.randn(NOISE, 3))[0]])
def test_it_plays_in_a_steered_environment(basis: Tensor | None) -> None:
    policy = TinyPolicy(3)
    layout = Layout(8, horizon=4, execute=4, noise_basis=basis)
    seen, chunks = torch.randn(100, 3), torch.randn(100, 4, 2)
    model = OutcomeModel(5, ["observation"], seen, chunks)
    env = steer_env(CountingEnv([3, 7, 4]), policy, 5, layout)
    best_of = BestOf(policy, model, layout, num_draws=3)
    kept = ["observation", keys.ACTION, ("next", keys.CHUNK)]
    episodes = collect_episodes(env, 6, policy=best_of, keep=kept)
    played = episodes.flat()
    if basis is None:
        chunk = policy.decode_from(played, played[keys.ACTION])
        torch.testing.assert_close(chunk, played["next", keys.CHUNK])
    else:
        assert played[keys.ACTION].shape[1:] == (3,)


def test_coordinates_are_those_of_the_chosen_noise(model: OutcomeModel) -> None:
    """The first coordinate is the component that decides, and is chosen; the second is not."""
    basis = torch.eye(NOISE)[:, [2, 5]]
    layout = replace(toys.LAYOUT, noise_basis=basis)
    best_of = BestOf(toys.policy(), model, layout)
    action = best_of(rows(500, code=1)).get(keys.ACTION)
    assert action.shape == (500, 2)
    assert float(action[:, 0].mean()) > 1
    assert abs(float(action[:, 1].mean())) < 0.4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_draws": 0}, "num_draws and max_decodes of at least 1, got 0"),
        ({"max_decodes": 0}, "at least 1, got 16 and 0"),
        ({"code": 2}, r"a code in \[0, 2\), got 2"),
        ({"layout": Layout(8, horizon=4, execute=2)}, "2 played actions of 2 dimensions"),
        ({"layout": Layout(8, execute=9)}, "chunks have at least 9"),
        ({"layout": replace(toys.LAYOUT, noise_basis=torch.ones(NOISE, 2))}, "orthonormal"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    model: OutcomeModel, options: dict[str, Any], match: str
) -> None:
    given = {"layout": toys.LAYOUT} | options
    with pytest.raises(ConfigurationError, match=match):
        BestOf(toys.policy(), model, **given)


def test_missing_entries_and_other_codes_are_named(model: OutcomeModel) -> None:
    best_of = BestOf(toys.policy(), model, toys.LAYOUT)
    with pytest.raises(KeyMismatchError, match="BestOf reads 'latent_features'"):
        best_of(rows(2))
    with pytest.raises(ShapeError, match="one-hot features of 2 codes"):
        best_of(rows(2).set(keys.LATENT_FEATURES, torch.eye(3)[:2]))
    with pytest.raises(KeyMismatchError, match="reads 'observation'"):
        best_of(rows(2, code=1).exclude("observation"))
