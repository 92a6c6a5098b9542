from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from modereg import keys
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.information import ross_information
from modereg.recipes.noise_information import (
    HeldNoise,
    _sharpest,
    common_scale,
    index_information,
)
from tests.recipes.planted import truth

EPISODES = 2048


def channel(num_codes: int, size: int, gain: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the index, gain * place[index] + .2 xi, and the information when smoothed by .3."""
    places = gain * torch.randn(num_codes, size)
    index = torch.randint(num_codes, (EPISODES,))
    features = places[index] + 0.2 * torch.randn(EPISODES, size)
    expected = truth(places, math.hypot(0.2, 0.3)) if gain else 0.0
    return index, features, expected


@pytest.mark.parametrize(("size", "gain"), [(2, 0.0), (2, 0.5), (2, 3.0), (14, 0.5)])
def test_the_estimate_is_that_of_a_known_channel_and_near_ross(size: int, gain: float) -> None:
    """Ross's estimate is another method altogether; both are within .12 nats of the truth."""
    index, features, expected = channel(16, size, gain)
    found = index_information(index, features, 16, noise=0.3, steps=200)
    smoothed = features + 0.3 * torch.randn_like(features)
    assert found.value == pytest.approx(expected, abs=0.12)
    assert ross_information(index, smoothed) == pytest.approx(expected, abs=0.12)
    assert 0 <= found.value <= math.log(16)
    assert found.num_episodes == EPISODES // 4


@given(
    num_codes=st.integers(2, 40),
    gain=st.sampled_from([0.0, 0.1, 1.0, 1e3]),
    noise=st.sampled_from([0.0, 0.1, 10.0]),
    seed=st.integers(0, 5),
)
def test_it_is_never_above_log_m_nor_below_0(
    num_codes: int, gain: float, noise: float, seed: int
) -> None:
    torch.manual_seed(seed)
    index = torch.randint(num_codes, (64,))
    features = gain * torch.randn(num_codes, 3)[index] + torch.randn(64, 3)
    found = index_information(
        index, features, num_codes, noise=noise, hidden=(8,), steps=20, seed=seed
    )
    assert 0 <= found.value <= math.log(num_codes)


def test_features_that_are_all_alike_decide_nothing() -> None:
    index = torch.randint(4, (200,))
    assert index_information(index, torch.ones(200, 3), 4, noise=0.0, steps=40).value < 0.05


def test_many_features_and_few_episodes_make_it_careful_instead_of_wrong() -> None:
    """Two groups of noises in one of 60 features: as sure as it may be, log 2 being the truth."""
    index = torch.randint(16, (1024,))
    features = torch.randn(1024, 60)
    features[:, 0] = 12.0 * (index % 2) + 0.1 * features[:, 0]
    found = index_information(index, features, 16, noise=0.2, steps=200)
    assert 0.6 * math.log(2) < found.value < math.log(2) + 3 * found.standard_error


@pytest.mark.parametrize(("right", "expected"), [(0.995, 1.0), (0.7, 0.35), (0.4, 0.15)])
def test_a_classifier_that_is_too_sure_is_toned_down(right: float, expected: float) -> None:
    """One of 8 logits is 8 above the rest, and right so often: log(7 r / (1 - r)) / 8 is best."""
    index = torch.randint(8, (4000,))
    named = torch.where(torch.arange(4000) < right * 4000, index, (index + 3) % 8)
    logits = 8.0 * torch.nn.functional.one_hot(named, 8)[None].float()
    value, factor = _sharpest(logits, index)
    assert factor == expected
    plain = torch.distributions.Categorical(logits=factor * logits[0]).log_prob(index)
    assert value == pytest.approx(float(plain.mean()) + math.log(8), abs=1e-4)


def test_smoothing_takes_information_away() -> None:
    index, features, _ = channel(16, 2, 1.0)
    values = [
        index_information(index, features, 16, noise=noise, steps=80).value
        for noise in (0.0, 0.5, 4.0)
    ]
    assert values[0] > values[1] + 0.2 > values[2] + 0.4


def test_the_seed_decides_and_torchs_generator_is_left_alone() -> None:
    index, features, _ = channel(4, 2, 0.5)
    options = dict(noise=0.1, hidden=(8,), steps=20)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.no_grad():
        first = index_information(index, features, 4, seed=1, **options)
    assert torch.equal(torch.rand(2), expected)
    assert first == index_information(index, features, 4, seed=1, **options)
    assert first != index_information(index, features, 4, seed=2, **options)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"index": torch.zeros(31, dtype=torch.int64)}, ShapeError, "flatten them"),
        ({"features": torch.zeros(32)}, ShapeError, "flatten them"),
        ({"features": torch.full((32, 2), torch.nan)}, NonFiniteError, "NaN"),
        ({"index": torch.full((32,), 4)}, ConfigurationError, r"in \[0, 4\), got 4 to 4"),
        ({"noise": -1.0}, ConfigurationError, "noise >= 0"),
        ({"held_out": 1.0}, ConfigurationError, "held_out"),
    ],
)
def test_what_cannot_be_estimated_is_refused(
    changes: dict, error: type[Exception], match: str
) -> None:
    options = {"index": torch.arange(32) % 4, "features": torch.randn(32, 2), "noise": 0.1}
    with pytest.raises(error, match=match):
        index_information(num_codes=4, **(options | changes))


def test_a_noise_is_held_by_its_code() -> None:
    noises = torch.randn(3, 4, 2)
    data = TensorDict({keys.LATENT: torch.tensor([2, 0])}, [2])
    assert torch.equal(HeldNoise(noises)(data)[keys.ACTION], noises[[2, 0]])


def test_the_common_scale_is_inputnoises_unless_episodes_are_nearly_alike() -> None:
    history = torch.randn(100, 5, 3)
    assert common_scale(history) == pytest.approx(float(history.flatten(1).var(0).mean().sqrt()))
    path = torch.arange(5.0)[None, :, None].expand(100, 5, 3)
    nearly = path + 1e-6 * torch.randn(100, 5, 3)
    assert common_scale(nearly) == pytest.approx(0.01 * float(path.flatten(0, 1).std(0)[0]), 1e-3)
