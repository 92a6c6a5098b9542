from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery.imitation import BalancedSampler, NoiseImitation
from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.steering import SteeringPolicy

MEANS = torch.tensor([[1.2, -0.5], [-1.0, 0.3], [0.2, 1.4]])
STDS = torch.tensor([0.3, 0.6, 1.0])


def _steering() -> SteeringPolicy:
    torch.manual_seed(0)
    return SteeringPolicy([keys.OBSERVATION], 1, 3, (1, 2), hidden=(32,))


def _triples(counts: tuple[int, int, int]) -> TensorDict:
    """Return noises of known Gaussians, one a code, with very unequal counts."""
    torch.manual_seed(1)
    codes = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    noise = MEANS[codes] + STDS[codes, None] * torch.randn(len(codes), 2)
    return TensorDict(
        {
            keys.OBSERVATION: torch.rand(len(codes), 1),
            keys.ACTION: noise[:, None],
            keys.LATENT: codes,
            "other": torch.zeros(len(codes)),
        },
        [len(codes)],
    )


def _read(steering: SteeringPolicy, code: int) -> tuple[Tensor, Tensor]:
    features = torch.nn.functional.one_hot(torch.full((64,), code), 3).float()
    data = TensorDict({keys.OBSERVATION: torch.rand(64, 1), keys.LATENT_FEATURES: features}, [64])
    found = steering.distribution(data)
    return found.mean.mean(0).flatten(), found.stddev.mean(0).flatten()


def test_each_code_gets_the_gaussian_of_its_noises() -> None:
    """By maximum likelihood the sample's mean and deviation, however rare the code is."""
    steering, data = _steering(), _triples((3000, 200, 60))
    loss = NoiseImitation(steering, batch_size=512, learning_rate=1e-2).fit(data, 3, 400)
    entropies = []
    for code in range(3):
        mean, std = _read(steering, code)
        chosen = data.get(keys.ACTION)[data.get(keys.LATENT) == code].squeeze(1)
        assert torch.allclose(mean, chosen.mean(0), atol=0.15), code
        assert torch.allclose(std, chosen.std(0, correction=0), rtol=0.2), code
        entropies.append(float((0.5 * math.log(2 * math.pi * math.e) + chosen.std(0).log()).sum()))
    assert loss == pytest.approx(sum(entropies) / 3, abs=0.12)  # codes weigh alike


def test_the_observation_decides_too() -> None:
    torch.manual_seed(2)
    steering, place = _steering(), torch.rand(4000, 1) * 2 - 1
    noise = torch.cat([place, -place], -1) + 0.2 * torch.randn(4000, 2)
    data = TensorDict(
        {
            keys.OBSERVATION: place,
            keys.ACTION: noise[:, None],
            keys.LATENT: torch.zeros(4000, dtype=torch.int64),
        },
        [4000],
    )
    NoiseImitation(steering, batch_size=512).fit(data, 3, 300)
    probe = data[:200]
    probe.set(keys.LATENT_FEATURES, torch.eye(3)[:1].expand(200, 3))
    mean = steering.distribution(probe).mean.squeeze(1)
    assert torch.allclose(mean, torch.cat([place, -place], -1)[:200], atol=0.2)


def _few(seed: int, num: int) -> TensorDict:
    """Noises that the code moves a little, beside observations that tell each row apart."""
    torch.manual_seed(seed)
    codes = torch.arange(num) % 3
    noise = torch.randn(num, 1, 2) + 0.8 * MEANS[codes, None]
    entries = {keys.OBSERVATION: torch.randn(num, 8), keys.ACTION: noise, keys.LATENT: codes}
    return TensorDict(entries, [num])


def _loss_on_others(validation: float) -> float:
    torch.manual_seed(0)
    steering = SteeringPolicy([keys.OBSERVATION], 8, 3, (1, 2), hidden=(64, 64))
    imitation = NoiseImitation(steering, batch_size=256, validation=validation)
    imitation.fit(_few(1, 300), 3, 400)
    with torch.no_grad():
        return float(imitation._negative_log_likelihood(_few(2, 3000), 3))


def test_what_is_held_out_stops_the_fit_before_noises_are_learned_by_heart() -> None:
    by_heart, stopped = _loss_on_others(0.0), _loss_on_others(0.25)
    assert stopped + 0.2 < by_heart


def test_the_held_out_loss_is_returned_and_none_is_held_out_of_too_few() -> None:
    steering, data = _steering(), _triples((300, 200, 100))
    loss = NoiseImitation(steering, validation=0.5).fit(data, 3, 100)
    judged = NoiseImitation(steering)._negative_log_likelihood(data[torch.randperm(600)], 3)
    assert loss < float(judged.detach()) + 1.0
    few = _triples((2, 1, 1))
    assert NoiseImitation(_steering(), validation=0.2).fit(few, 3, 0) == 0.0


def test_nothing_but_the_steering_policy_changes() -> None:
    steering, data = _steering(), _triples((30, 20, 10))
    before = data.clone()
    imitation = NoiseImitation(steering)
    assert imitation.entries == [keys.OBSERVATION, keys.LATENT, keys.ACTION]
    assert imitation.fit(data, 3, 0) == 0.0
    assert torch.equal(_read(steering, 0)[1], torch.ones(2))
    imitation.fit(data, 3, 2)
    assert set(data.keys()) == set(before.keys())
    assert bool((data == before).all())


def test_errors() -> None:
    with pytest.raises(KeyMismatchError, match=r"the data lacks \['latent'\]; keep them when"):
        NoiseImitation(_steering()).fit(_triples((3, 3, 3)).exclude(keys.LATENT), 3, 1)
    for options in (dict(learning_rate=0.0), dict(batch_size=0)):
        with pytest.raises(ConfigurationError, match="positive learning_rate and batch_size"):
            NoiseImitation(_steering(), **options)
    with pytest.raises(ConfigurationError, match="at least 0 and below 1, got 1.0"):
        NoiseImitation(_steering(), validation=1.0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.integers(0, 99))
def test_codes_that_occur_come_equally_often(drawn: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    codes = torch.tensor(drawn)
    index = BalancedSampler(codes, 6)(3000)
    counts = torch.bincount(codes[index], minlength=6)
    present = torch.bincount(codes, minlength=6) > 0
    expected = 3000 / int(present.sum())
    assert bool((counts[~present] == 0).all())
    assert bool(((counts[present] - expected).abs() < 6 * expected**0.5).all())
    # and every row of a code as often as any other of it
    rows = torch.bincount(index, minlength=len(codes)).double()
    share = expected / torch.bincount(codes, minlength=6)[codes]
    assert bool(((rows - share).abs() < 6 * share**0.5 + 1).all())


def test_noises_codes_and_rates_that_would_spoil_the_policy_are_refused() -> None:
    data = _triples((30, 20, 10))
    data[keys.ACTION][4, 0, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"under 'action' in the noises to imitate, .*\[4\]"):
        NoiseImitation(_steering()).fit(data, 3, 1)
    with pytest.raises(ConfigurationError, match="codes between 0 and 2"):
        NoiseImitation(_steering()).fit(_triples((30, 20, 10)), 2, 1)
    for rate in (math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="positive learning_rate"):
            NoiseImitation(_steering(), learning_rate=rate)
