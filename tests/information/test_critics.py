"""Learned critics against closed forms, on few samples; what they must never do."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.information.critics import (
    Bound,
    InformationEstimate,
    SeparableCritic,
    estimate_information,
)

RHO = 0.75
TRUTH = -0.5 * math.log(1 - RHO**2)
SMALL: dict[str, Any] = dict(hidden=(32,), steps=150, batch_size=128, lr=5e-3, held_out=0.3)
each_bound = pytest.mark.parametrize("bound", get_args(Bound))


def gaussians(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples ``[size, 1]`` of two Gaussians with correlation RHO."""
    x, noise = torch.randn(2, size, 1, generator=torch.Generator().manual_seed(seed))
    return x, RHO * x + math.sqrt(1 - RHO**2) * noise


class Known(nn.Module):
    """The log density ratio of :func:`gaussians`, tilted: ratio + level + tilt (x + y)."""

    def __init__(self, level: float = 0.0, tilt: float = 0.0) -> None:
        super().__init__()
        self.level, self.tilt = nn.Parameter(torch.tensor(level)), tilt

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.T
        quadratic = RHO**2 * (x**2 + y**2) - 2 * RHO * x * y
        ratio = TRUTH - quadratic / (2 * (1 - RHO**2))
        return ratio + self.level + self.tilt * (x + y)


def read_only(critic: nn.Module, **options: Any) -> dict[str, Any]:
    """Return options by which a critic is read as it is, on half of the samples."""
    return dict(critic=critic, steps=1, lr=1e-9, held_out=0.5) | options


@each_bound
def test_every_bound_finds_the_information_of_two_gaussians(bound: Bound) -> None:
    found = estimate_information(*gaussians(3000), bound=bound, **SMALL)
    assert found.num_samples == 900
    assert 0 < found.standard_error < 0.05
    assert found.value == pytest.approx(TRUTH, abs=3 * found.standard_error + 0.03)
    assert found.train_value == pytest.approx(TRUTH, abs=0.12)


@each_bound
def test_independent_variables_share_nothing(bound: Bound) -> None:
    x, _ = gaussians(1500)
    y, _ = gaussians(1500, seed=1)
    found = estimate_information(x, y, bound=bound, **SMALL)
    assert -0.2 < found.value <= 3 * found.standard_error


def test_codes_become_one_hot() -> None:
    codes, error = 4, 0.1
    x = torch.randint(codes, (3000,))
    wrong = (x + torch.randint(1, codes, x.shape)) % codes
    y = torch.where(torch.rand(3000) < error, wrong, x)
    truth = math.log(codes) - error * math.log(codes - 1)
    truth += error * math.log(error) + (1 - error) * math.log(1 - error)
    options = SMALL | dict(batch_size=64)
    found = estimate_information(x, y, **options)
    assert found.value == pytest.approx(truth, abs=3 * found.standard_error + 0.05)


def test_a_code_and_a_vector_that_do_not_correlate_linearly() -> None:
    x = torch.randn(2000, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    found = estimate_information(x, y, **SMALL)
    assert 0.5 < found.value <= math.log(2.0) + 3 * found.standard_error


@pytest.mark.parametrize(
    ("bound", "tilt"), [("dv", 0.4), ("nwj", 0.4), ("smile", 0.4), ("info_nce", 1.2)]
)
def test_the_standard_error_is_the_spread_over_fresh_samples(bound: Bound, tilt: float) -> None:
    critic = Known(1.0 if bound == "nwj" else 0.0, tilt)
    # So many that the standardisation, which the error does not count, hardly varies.
    options = read_only(critic, bound=bound, held_out=0.05)
    runs = [estimate_information(*gaussians(4000, seed), **options) for seed in range(80)]
    spread = float(torch.tensor([run.value for run in runs]).std())
    error = sum(run.standard_error for run in runs) / len(runs)
    assert spread == pytest.approx(error, rel=0.2)


def test_many_samples_are_read_in_blocks() -> None:
    sizes = []
    critic = Known()
    critic.register_forward_hook(lambda module, inputs, scores: sizes.append(scores.numel()))
    options = read_only(critic, bound="dv", chunk_size=256)
    found = estimate_information(*gaussians(50_000), **options)
    assert found.num_samples == 25_000
    assert max(sizes) <= 256**2
    assert found.value == pytest.approx(TRUTH, abs=3 * found.standard_error)


@each_bound
def test_the_size_of_the_blocks_hardly_matters(bound: Bound) -> None:
    x, y = gaussians(2000)
    options = read_only(Known(), bound=bound)
    blocks = estimate_information(x, y, chunk_size=200, **options)
    whole = estimate_information(x, y, chunk_size=1000, **options)
    assert blocks.value == pytest.approx(whole.value, abs=0.02)
    assert blocks.standard_error == pytest.approx(whole.standard_error, rel=0.2)


def test_the_critic_that_validated_best_is_read() -> None:
    x, y = torch.randn(2, 150, 2)
    options: dict[str, Any] = dict(hidden=(64,), steps=300, batch_size=64, lr=1e-2, held_out=0.3)
    found = estimate_information(x, y, **options)
    assert found.value > -0.1  # the last one has learned its 95 samples by heart
    assert found.value < found.train_value < 0.1


def test_info_nce_is_at_most_the_log_of_the_block() -> None:
    x, _ = gaussians(1000)
    found = estimate_information(x, x, chunk_size=8, **SMALL)
    assert 0.6 * math.log(8) < found.value <= math.log(8)


def test_for_one_critic_nwj_is_at_most_unclipped_smile() -> None:
    x, y = gaussians(1000)
    lower = estimate_information(x, y, bound="js", **SMALL)
    upper = estimate_information(x, y, bound="smile", clip=1e6, **SMALL)
    assert lower.value <= upper.value + 1e-12
    clipped = estimate_information(x, y, bound="smile", clip=0.1, **SMALL)
    assert clipped.value > TRUTH  # no bound: clipping shrinks what is subtracted


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    x, y = gaussians(300)
    options: dict[str, Any] = dict(steps=5, batch_size=32, hidden=(8,))
    before = torch.get_rng_state()
    first = estimate_information(x, y, **options)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert estimate_information(x, y, **options) == first
    assert estimate_information(x, y, seed=1, **options) != first


def test_units_and_constant_features_do_not_matter() -> None:
    x, y = (value.double() for value in gaussians(500))
    options: dict[str, Any] = dict(steps=20, batch_size=64, hidden=(8,))
    plain = estimate_information(x, y, **options)
    scaled = estimate_information(1e-6 * x + 40, 1e5 * y - 3, **options)
    assert scaled.value == pytest.approx(plain.value, abs=1e-3)
    wide = estimate_information(torch.cat([x, torch.full_like(x, 7.1)], 1), y, **options)
    assert math.isfinite(wide.value)


def test_samples_of_any_shape_dtype_and_mode_of_autograd() -> None:
    x, y = gaussians(300)
    options: dict[str, Any] = dict(steps=5, batch_size=32, hidden=(8,))
    plain = estimate_information(x, y, **options)
    with torch.no_grad():
        assert estimate_information(x.squeeze(1), y.view(300, 1, 1), **options) == plain
    x.requires_grad_()
    assert estimate_information(x, y.double(), **options).value == pytest.approx(
        plain.value, abs=1e-4
    )
    assert x.grad is None


def test_a_module_of_the_caller_s_is_copied() -> None:
    critic = SeparableCritic(1, 1, (8,), rank=4)
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    found = estimate_information(*gaussians(500), critic=critic, steps=20, batch_size=64)
    assert isinstance(found, InformationEstimate)
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name])


def test_critics_score_pair_by_pair() -> None:
    critic, x, y = SeparableCritic(3, 2, (8, 6)), torch.randn(4, 3), torch.randn(5, 2)
    scores = critic(x, y)
    assert scores.shape == (4, 5)
    for row in range(4):
        for column in range(5):
            torch.testing.assert_close(
                critic(x[row : row + 1], y[column : column + 1])[0, 0], scores[row, column]
            )
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(bound="mutual"), "expected a bound of"),
        (dict(steps=0), "at least 1 step"),
        (dict(chunk_size=2), "chunk_size of at least 3"),
        (dict(held_out=1.0), "expected held_out in"),
        (dict(held_out=0.001), "expected samples enough"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        estimate_information(*gaussians(100), **options)


def test_bad_samples() -> None:
    x, y = gaussians(100)
    with pytest.raises(ShapeError, match=r"shape \[90, 1\] beside x of \[100, 1\]"):
        estimate_information(x, y[:90])
    with pytest.raises(ShapeError, match="where they are codes"):
        estimate_information(x, torch.zeros(100, 1, dtype=torch.int64))
    with pytest.raises(ConfigurationError, match="got -1 in y"):
        estimate_information(x, torch.arange(100) - 1)
    with pytest.raises(NonFiniteError, match="finite y"):
        estimate_information(x, y / 0)
    with pytest.raises(ConfigurationError, match="samples enough"):
        estimate_information(x[:6], y[:6])


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(NonFiniteError, match="lower lr"):
        estimate_information(*gaussians(500), bound="nwj", **SMALL | dict(lr=1e4))
