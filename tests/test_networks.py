"""The MLP, its sine features and the noise on an input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.networks import MLP, FourierFeatures, InputNoise, flat_features


def test_fourier_features_are_standardised_inputs_sines_and_cosines() -> None:
    features, data = FourierFeatures(2, octaves=3), 5 + 3 * torch.randn(500, 2)
    features.fit(data)
    x = (data - data.mean(0)) / data.std(0)
    frequencies = [math.pi / 4, math.pi / 2, math.pi]
    columns = [x]
    for wave in (torch.sin, torch.cos):
        columns += [wave(x[:, i : i + 1] * f) for i in range(2) for f in frequencies]
    assert features.out_features == 14
    torch.testing.assert_close(features(data), torch.cat(columns, 1))


def test_constants_keep_their_scale_and_unfitted_features_are_the_input() -> None:
    features = FourierFeatures(2, octaves=0)
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    torch.testing.assert_close(features(x), x)
    features.fit(x)
    torch.testing.assert_close(features.scale, torch.tensor([math.sqrt(2.0), 1.0]))
    with pytest.raises(ConfigurationError, match="octaves"):
        FourierFeatures(2, octaves=-1)


def test_mlp_without_extras_is_a_plain_network() -> None:
    mlp, x = MLP(3, 2, (8, 5)), torch.randn(4, 6, 3)
    weights = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    expected = x
    for layer in weights[:-1]:
        expected = nn.functional.mish(layer(expected))
    torch.testing.assert_close(mlp(x), weights[-1](expected))
    assert [layer.out_features for layer in weights] == [8, 5, 2]


def test_several_inputs_are_concatenated_in_order() -> None:
    mlp, a, b = MLP(5, 2), torch.randn(7, 2), torch.randn(7, 3)
    torch.testing.assert_close(mlp(a, b), mlp(torch.cat([a, b], -1)))
    assert flat_features([a]) is a


def test_plain_features_pass_unscaled() -> None:
    mlp = MLP(5, 2, octaves=2, plain_features=3)
    assert mlp.features.out_features == 2 * 5
    mlp.features.scale.fill_(1e9)  # the first two vanish, the code does not
    code = torch.eye(3)
    out = mlp(torch.randn(3, 2), code)
    assert not torch.allclose(out[0], out[1])


def test_zero_init_starts_at_zero_with_gradients() -> None:
    mlp = MLP(3, 2, zero_init=True)
    out = mlp(torch.randn(4, 3))
    assert (out == 0).all()
    out.sum().backward()
    assert mlp.layers[-1].weight.grad.abs().sum() > 0


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"total length 3, got 4 from shapes \[\(2, 1\), \(2, 3\)\]"
    ):
        MLP(3, 2)(torch.zeros(2, 1), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="plain_features"):
        MLP(3, 2, plain_features=3)


def test_a_history_of_observations_is_flattened_beside_a_vector() -> None:
    history, code = torch.randn(4, 5, 2, 3), torch.randn(4, 5, 7)
    torch.testing.assert_close(
        flat_features([history, code]), torch.cat([history.reshape(4, 5, 6), code], -1)
    )


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", [torch.float32, torch.float64])
def test_inputs_are_cast_to_the_weights(weights: torch.dtype, inputs: torch.dtype) -> None:
    out = MLP(3, 2, (4,), octaves=2).to(weights)(torch.randn(5, 3, dtype=inputs))
    assert out.dtype == weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_input_noise_has_the_asked_deviation(dtype: torch.dtype) -> None:
    noisy, x = InputNoise(nn.Identity(), 0.5).to(dtype), torch.ones(20_000, 2, dtype=dtype)
    assert noisy(x) is x
    draws = noisy(x, noisy=True)
    assert draws.dtype == dtype
    assert float(draws.double().std()) == pytest.approx(0.5, rel=0.02)
    noisy.std = 0.25
    assert noisy.std == 0.25
    assert InputNoise(nn.Identity(), 0.1).load_state_dict(noisy.state_dict())
    for value in (-0.1, float("nan")):
        with pytest.raises(ConfigurationError, match="non-negative, finite noise"):
            noisy.std = value


def test_noise_on_features_that_count() -> None:
    noisy = InputNoise(MLP(3, 2, (4,)), 0.5)
    counts = torch.arange(6).view(2, 3)
    torch.testing.assert_close(noisy(counts), noisy(counts.float()))
    assert not torch.equal(noisy(counts, noisy=True), noisy(counts))


@pytest.mark.parametrize("module", [FourierFeatures(2, 1), InputNoise(MLP(2, 1, (4,)))])
def test_data_without_a_mean_is_refused_and_one_row_is_enough(module: nn.Module) -> None:
    """NaN in the buffers would make every later output NaN."""
    with pytest.raises(ConfigurationError, match="at least one row to standardise by"):
        module.fit(torch.zeros(0, 2))
    with pytest.raises(NonFiniteError, match="NaN or infinity in column 1"):
        module.fit(torch.tensor([[0.0, torch.inf], [0.0, 1.0]]))
    module.fit(torch.ones(1, 2))
    assert all(bool(value.isfinite().all()) for value in module.buffers())
