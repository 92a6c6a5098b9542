"""Random network distillation: what it reads, what learns, when its moments change."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError, ShapeError
from modereg.networks import MLP
from modereg.novelty import RandomNetworkDistillation, RunningMoments, read_features


def distillation(features: int = 3, **options: Any) -> RandomNetworkDistillation:
    return RandomNetworkDistillation.mlp(features, 8, (16,), **options)


def learn(rnd: RandomNetworkDistillation, seen: Tensor, steps: int, lr: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(rnd.predictor.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        rnd(seen).mean().backward()
        optimizer.step()


# --- features


def test_entries_are_flattened_beyond_the_batch_and_joined_in_order() -> None:
    td = TensorDict(
        {
            "image": torch.randn(4, 5, 2, 3),
            "agent": {"count": torch.arange(20).view(4, 5), "x": torch.randn(4, 5, 1)},
        },
        [4, 5],
    )
    x = read_features(td, ["image", ("agent", "count"), ("agent", "x")], "the test")
    expected = [td["image"].flatten(2), td["agent", "count"][..., None], td["agent", "x"]]
    torch.testing.assert_close(x, torch.cat(expected, -1))


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_features_are_cast_to_the_networks(weights: torch.dtype, inputs: torch.dtype) -> None:
    rnd = distillation().to(weights)
    features = rnd.features(TensorDict({"observation": torch.ones(5, 3).to(inputs)}, [5]))
    assert rnd.observe(features).dtype == weights
    assert rnd.novelty(features).dtype == weights
    assert RunningMoments(dtype=weights).mean.dtype == weights


def test_bad_features_are_refused() -> None:
    rnd, td = distillation(), TensorDict({"observation": torch.randn(4, 3)}, [4])
    with pytest.raises(KeyMismatchError, match="RandomNetworkDistillation reads 'other'"):
        rnd.features(td, ["other"])
    with pytest.raises(ShapeError, match="expected 3 features, got 6"):
        rnd.features(td, ["observation", "observation"])
    td["observation"][1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'observation'.*fills the observation"):
        rnd.features(td)
    valid = torch.tensor([True, False, True, True])
    assert torch.isfinite(rnd.features(td, valid=valid)).all()


# --- moments


def test_moments_follow_all_samples_in_either_mode() -> None:
    moments, samples = RunningMoments((2,)), 3 + 2 * torch.randn(90, 2)
    assert moments.scale.tolist() == [1.0, 1.0]
    moments.update(samples[:50])
    moments.eval()
    moments.update(samples[50:].reshape(-1, 2))
    moments.update(samples[:0])
    np.testing.assert_allclose(moments.mean, samples.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.scale, samples.numpy().std(0), rtol=1e-5)
    root = np.sqrt((samples.numpy() ** 2).mean(0))
    np.testing.assert_allclose(moments.root_mean_square, root, rtol=1e-5)


def test_constants_keep_scale_one_despite_rounding() -> None:
    moments = RunningMoments()
    for _ in range(5):
        moments.update(torch.full((7,), 1234.567))
    assert float(moments.scale) == 1
    zeros = RunningMoments()
    zeros.update(torch.zeros(4))
    assert float(zeros.root_mean_square) == 1


def test_the_moments_change_when_observing_and_never_else() -> None:
    rnd, x = distillation(), 4 + torch.randn(32, 3)
    before = copy.deepcopy(rnd.state_dict())
    for mode in (True, False):
        rnd.train(mode)
        rnd(x)
        rnd.novelty(x)
    assert all(torch.equal(value, before[key]) for key, value in rnd.state_dict().items())
    rnd.eval()
    rnd.observe(x)
    torch.testing.assert_close(rnd.input_moments.mean, x.mean(0))
    assert int(rnd.novelty_moments.count) == 32


def test_rows_that_do_not_count_leave_no_trace() -> None:
    one, x = distillation(), torch.randn(2, 6, 3)
    other = copy.deepcopy(one)
    valid = torch.rand(2, 6) < 0.5
    error = one.observe(torch.where(valid[..., None], x, 1e6), valid)
    torch.testing.assert_close(other.observe(x[valid]), error[valid])
    for key, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[key], value)
    one.observe(x, torch.zeros_like(valid))
    assert int(one.input_moments.count) == int(valid.sum())


# --- the novelty


@pytest.mark.parametrize("measure", ["squared", "root"])
def test_the_novelty_has_root_mean_square_one_at_first(measure: Any) -> None:
    rnd, x = distillation(measure=measure), 100 * torch.randn(64, 3)
    error = rnd.observe(x).detach()
    measured = error if measure == "squared" else error.sqrt()
    expected = measured / measured.square().mean().sqrt()
    torch.testing.assert_close(rnd.novelty(x), expected)
    torch.testing.assert_close(rnd.scaled(error), expected)


def test_standardised_features_are_clipped() -> None:
    rnd = distillation(input_clip=2.0)
    rnd.observe(torch.randn(100, 3))
    far = torch.tensor([[1e3, 1e3, 1e3], [1e9, 1e9, torch.inf]])
    torch.testing.assert_close(rnd(far)[0], rnd(far)[1])


def test_the_scale_of_the_features_does_not_matter_once_observed() -> None:
    rnd, x = distillation(), torch.randn(50, 3)
    scaled = copy.deepcopy(rnd)
    rnd.observe(x)
    scaled.observe(1000 * x - 70)
    torch.testing.assert_close(scaled.novelty(1000 * x - 70), rnd.novelty(x), rtol=1e-3, atol=1e-4)


def test_gradients_reach_all_of_the_predictor_and_nothing_of_the_target() -> None:
    rnd = distillation()
    rnd.observe(torch.randn(16, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in rnd.predictor.parameters())
    rnd.target.requires_grad_(True)  # even then
    rnd(torch.randn(16, 3)).sum().backward()
    assert all(p.grad is None for p in rnd.target.parameters())
    assert not rnd.novelty(torch.randn(4, 3)).requires_grad


def test_what_was_seen_loses_its_novelty_and_what_was_not_keeps_more() -> None:
    rnd = RandomNetworkDistillation.mlp(2, 32, (64, 64))
    everywhere = 2 * torch.rand(1024, 2) - 1
    seen, unseen = (everywhere[everywhere[:, 0] * s > 0.25] for s in (-1, 1))
    rnd.observe(everywhere)
    start = rnd.novelty(seen).mean(), rnd.novelty(unseen).mean()
    learn(rnd, seen[::2], 200)
    fresh = rnd.novelty(seen[1::2]).mean()  # points in between generalise
    assert fresh < 0.02 * start[0]
    assert rnd.novelty(unseen).mean() > 10 * fresh
    learn(rnd, unseen, 200)
    assert rnd.novelty(unseen).mean() < 0.05 * start[1]


def test_the_state_dict_holds_everything() -> None:
    rnd, x = distillation(), 3 * torch.randn(64, 3)
    rnd.observe(x)
    learn(rnd, x, 5)
    other = distillation()
    assert not torch.allclose(other.novelty(x), rnd.novelty(x))
    other.load_state_dict(rnd.state_dict())
    assert torch.equal(other.novelty(x), rnd.novelty(x))
    assert int(other.input_moments.count) == 64


# --- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"measure": "cubed"}, r"measure to be one of \('squared', 'root'\), got 'cubed'"),
        ({"input_clip": 0.0}, "positive input_clip, got 0"),
        ({"input_clip": float("nan")}, "positive input_clip, got nan"),
        ({"in_keys": []}, "sequence of at least one key"),
        ({"in_keys": "observation"}, "sequence of at least one key, got 'observation'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        distillation(**options)


def test_networks_that_do_not_fit_are_refused() -> None:
    predictor, target = MLP(3, 8, (4,)), MLP(3, 8, (4,))
    with pytest.raises(ConfigurationError, match="got shared ones; build two networks"):
        RandomNetworkDistillation(predictor, predictor, 3)
    with pytest.raises(ConfigurationError, match="give predictor first, then target"):
        RandomNetworkDistillation(nn.Identity(), target, 3)
    with pytest.raises(ShapeError, match=r"one shape \[2, D\], got \(2, 8\) and \(2, 7\)"):
        RandomNetworkDistillation(predictor, MLP(3, 7, (4,)), 3)
    assert all(p.requires_grad for p in target.parameters())  # a refusal freezes nothing
    RandomNetworkDistillation(predictor, target, 3)
    assert not any(p.requires_grad for p in target.parameters())
