"""What every estimator with a network refuses or takes: codes, keys, batches, devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.estimators import KINDS, NetworkEstimator
from modereg.networks import MLP, InputNoise
from modereg.priors import NormalPrior

FEATURES = 6
CODES = {"gaussian": 2, "von_mises_fisher": 3}
DISCRETE = sorted(set(KINDS) - set(CODES))

every = pytest.mark.parametrize("kind", sorted(KINDS))
discrete = pytest.mark.parametrize("kind", DISCRETE)


def estimator(kind: str, **options: object) -> NetworkEstimator:
    return KINDS[kind](FEATURES, CODES.get(kind, 4), **options)


def data(q: NetworkEstimator, *size: int) -> TensorDict:
    history, after = torch.randn(2, *size, FEATURES)
    latent = q.prior.sample(torch.Size(size))
    return TensorDict({"history": history, "latent": latent, "next": {"history": after}}, size)


@every
def test_codes_of_another_shape_are_refused_before_they_broadcast(kind: str) -> None:
    q = estimator(kind)
    td = data(q, 5)
    td["latent"] = td["latent"].unsqueeze(-1)
    for read in (q.log_ratio, q.sample_loss, q.loss, q.bound):
        with pytest.raises(ShapeError, match="expected codes of shape .* under 'latent'"):
            read(td)


@pytest.mark.parametrize("kind", ["contrastive", "lsd", "metra"])
def test_continuous_codes_of_another_length_are_refused(kind: str) -> None:
    q = KINDS[kind](FEATURES, NormalPrior(3))
    td = data(q, 5)
    td["latent"] = td["latent"][:, :1]
    for read in (q.log_ratio, q.sample_loss):
        with pytest.raises(ShapeError, match=r"\(5, 3\) under 'latent', got \(5, 1\)"):
            read(td)


@every
@pytest.mark.parametrize("in_keys", ["history", []])
def test_a_key_in_the_place_of_keys_is_refused(kind: str, in_keys: object) -> None:
    with pytest.raises(ConfigurationError, match="expected a sequence of at least one key"):
        estimator(kind, in_keys=in_keys)


@every
def test_widths_and_noise_are_those_that_were_asked_for(kind: str) -> None:
    module = estimator(kind, hidden=(24, 16), noise=0.07).network.module
    linear = [layer for layer in module.network.layers if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear[:-1]] == [24, 16]
    assert module.std == pytest.approx(0.07)
    module.fit(torch.randn(50, FEATURES) * 3)
    assert module.std == pytest.approx(0.07)
    assert linear[-1].bias.requires_grad == (kind not in ("lsd", "metra"))


@discrete
@pytest.mark.parametrize("option", [{"hidden": (8,)}, {"noise": 0.1}])
def test_widths_and_noise_beside_a_network_that_brings_its_own_are_refused(
    kind: str, option: dict[str, Any]
) -> None:
    network = MLP(FEATURES, estimator(kind).width)
    with pytest.raises(ConfigurationError, match="beside a MLP; put them in that network"):
        KINDS[kind](network, 4, **option)


@every
def test_figures_of_any_batch_are_those_of_its_rows(kind: str) -> None:
    q = estimator(kind).double()
    td = data(q, 4, 5).apply(lambda value: value.double() if value.is_floating_point() else value)
    for name, value in q.figures(td.reshape(-1)).items():
        assert q.figures(td)[name] == pytest.approx(value), name


@every
def test_features_say_which_device_where_the_tensordict_does_not(kind: str) -> None:
    """On ``meta``, where nothing is computed but devices must agree."""
    q = estimator(kind)
    td = TensorDict({key: value.to("meta") for key, value in data(q, 5).items(True, True)}, [5])
    assert td.device is None
    q = q.to("meta")
    for read in (q.log_ratio, q.sample_loss):
        assert read(td).device.type == "meta"


@discrete
def test_every_code_is_made_beside_the_features(kind: str) -> None:
    q = estimator(kind).to("meta")
    td = TensorDict({"history": torch.randn(5, FEATURES, device="meta")}, [5])
    seen = []
    ratio = q.log_ratio
    q.log_ratio = lambda rows: (seen.append(rows["latent"].device.type), ratio(rows))[1]
    assert q.log_prob(td).shape == (5, 4)
    assert set(seen) <= {"meta"}


@discrete
def test_the_posterior_names_a_missing_feature(kind: str) -> None:
    with pytest.raises(KeyMismatchError, match="reads 'history'"):
        estimator(kind).log_prob(TensorDict({"latent": torch.zeros(3, dtype=torch.int64)}, [3]))


@discrete
def test_noise_that_would_never_be_drawn_is_refused(kind: str) -> None:
    q = estimator(kind)
    noisy = InputNoise(MLP(8, q.width), 0.5)
    for network in (
        nn.Sequential(nn.Linear(FEATURES, 8), noisy),
        TensorDictSequential(
            TensorDictModule(nn.Linear(FEATURES, 8), ["history"], ["hidden"]),
            TensorDictModule(noisy, ["hidden"], [q.out_key]),
        ),
    ):
        with pytest.raises(ConfigurationError, match="expected InputNoise around the whole"):
            KINDS[kind](network, 4)
