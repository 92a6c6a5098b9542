"""The contrastive ratio: its limit, its zero, and the two proofs that it is a lower bound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from modereg import functional

SEEDS = st.integers(0, 10_000)


def table(seed: int, states: int = 5, codes: int = 4) -> torch.Tensor:
    """Return a random joint distribution p(s, z), ``[S, K]`` float64."""
    weights = torch.rand(states, codes, generator=torch.Generator().manual_seed(seed)).double()
    weights = weights.pow(4) + 1e-6
    return weights / weights.sum()


def all_codes_bound(joint: torch.Tensor, scores: torch.Tensor, size: int) -> torch.Tensor:
    """Return the exact mean of the ratio with all codes weighed by p(z)."""
    states, codes = joint.shape
    others = scores[:, None].expand(states, codes, codes)
    return (joint * functional.contrastive_ratio(scores, others, joint.sum(0), size)).sum()


def symmetric_channel(codes: int, error: float) -> torch.Tensor:
    """Return p(s, z) of a code that is shown as another one with this probability."""
    rows = torch.full((codes, codes), error / (codes - 1), dtype=torch.float64)
    return rows.fill_diagonal_(1 - error) / codes


def draws(joint: torch.Tensor, count: int, contrasts: int) -> tuple[torch.Tensor, ...]:
    """Draw states, codes and contrasts, ``[N]``, ``[N]`` and ``[N, contrasts]``."""
    pairs = torch.multinomial(joint.flatten(), count, replacement=True)
    others = torch.multinomial(joint.sum(0), count * contrasts, replacement=True)
    codes = joint.shape[1]
    return pairs // codes, pairs % codes, others.view(count, contrasts)


@given(SEEDS, st.integers(1, 40), st.sampled_from([1e-3, 1.0, 1e2, 1e4]))
def test_never_above_log_n_and_always_finite(seed: int, count: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint = size * torch.randn(30, generator=generator)
    others = size * torch.randn(30, count, generator=generator)
    for dtype in (torch.float32, torch.float64):
        ratio = functional.contrastive_ratio(joint.to(dtype), others.to(dtype))
        assert ratio.dtype == dtype
        assert torch.isfinite(ratio).all()
        assert (ratio <= math.log(count + 1) + 1e-6).all()


@given(SEEDS, st.integers(2, 5000), st.sampled_from([1.0, 1e4]))
def test_never_above_the_limit_of_all_codes(seed: int, num_samples: int, size: float) -> None:
    probs = table(seed).sum(0)
    scores = size * torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)).double()
    limit = functional.contrastive_limit(num_samples, float(-probs.log().min()))
    for code in range(4):
        ratio = functional.contrastive_ratio(scores[:, code], scores, probs, num_samples)
        own = functional.contrastive_limit(num_samples, float(-probs[code].log()))
        assert (ratio <= own + 1e-12).all()
        assert own <= limit + 1e-12
        assert own <= min(math.log(num_samples), float(-probs[code].log())) + 1e-12


def test_the_limits_are_reached() -> None:
    lost = torch.full((1, 7), -1e4)
    ratio = functional.contrastive_ratio(torch.zeros(1), lost)
    torch.testing.assert_close(ratio, torch.full((1,), math.log(8)))
    scores, uniform = 1e4 * torch.eye(4), torch.full((4,), 0.25)
    ratio = functional.contrastive_ratio(scores.diagonal(), scores, uniform, 16)
    limit = functional.contrastive_limit(16, math.log(4))
    torch.testing.assert_close(ratio, torch.full((4,), limit))
    assert functional.contrastive_limit(16) == pytest.approx(math.log(16))
    assert functional.contrastive_limit(10**9, math.log(4)) == pytest.approx(math.log(4))
    assert functional.contrastive_limit(16, 0.0) == pytest.approx(0.0)


@given(SEEDS, st.floats(-1e4, 1e4, width=32), st.integers(1, 300), st.integers(2, 300))
def test_a_constant_critic_pays_exactly_nothing(
    seed: int, value: float, count: int, num_samples: int
) -> None:
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed)) + 0.01
    scores = torch.full((3, count), value)
    for given_weights in (None, weights):
        ratio = functional.contrastive_ratio(scores[:, 0], scores, given_weights, num_samples)
        assert (ratio == 0).all()


@given(SEEDS, st.floats(-100, 100))
def test_what_is_added_to_all_scores_of_a_state_changes_nothing(seed: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint, others = torch.randn(6, generator=generator), torch.randn(6, 9, generator=generator)
    shifts = shift * torch.randn(6, generator=generator).double()
    ratio = functional.contrastive_ratio(joint.double(), others.double())
    moved = functional.contrastive_ratio(joint + shifts, others + shifts[:, None])
    torch.testing.assert_close(moved, ratio)


@given(SEEDS)
def test_the_order_of_contrasts_does_not_matter_and_weight_zero_does_not_count(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint, others = torch.randn(6, generator=generator), torch.randn(6, 9, generator=generator)
    weights, order = torch.rand(9, generator=generator), torch.randperm(9, generator=generator)
    ratio = functional.contrastive_ratio(joint, others, weights, 20)
    shuffled = functional.contrastive_ratio(joint, others[:, order], 7 * weights[order], 20)
    torch.testing.assert_close(shuffled, ratio)
    more = torch.cat([others, torch.full((6, 1), 1e30)], 1)
    padded = functional.contrastive_ratio(joint, more, F.pad(weights, (0, 1)), 20)
    torch.testing.assert_close(padded, ratio)


@given(SEEDS)
def test_equal_weights_and_fewer_distinct_contrasts_are_the_same_sum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 3, generator=generator).double()
    counts = torch.tensor([2, 1, 4])
    repeated = scores.repeat_interleave(counts, -1)
    torch.testing.assert_close(
        functional.contrastive_ratio(scores[:, 0], scores, counts, 8),
        functional.contrastive_ratio(scores[:, 0], repeated),
    )


@given(SEEDS, st.integers(2, 20))
def test_a_batch_of_pairs_gives_info_nce(seed: int, size: int) -> None:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double()
    joint, marginal = functional.split_scores(scores)
    ratio = functional.contrastive_ratio(joint, marginal)
    torch.testing.assert_close(ratio.mean(), functional.info_nce(joint, marginal))


@given(SEEDS, st.integers(2, 1000), st.floats(0.01, 100.0))
def test_all_codes_are_a_lower_bound_for_every_critic(
    seed: int, num_samples: int, size: float
) -> None:
    joint = table(seed)
    scores = size * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).double()
    bound = all_codes_bound(joint, scores, num_samples)
    assert bound <= functional.mutual_information(joint) + 1e-12
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    assert all_codes_bound(independent, scores, num_samples) <= 1e-12


@given(SEEDS)
def test_all_codes_are_below_the_mean_over_draws_and_tend_to_the_classifier(seed: int) -> None:
    torch.manual_seed(seed)
    joint, scores = table(seed), 2 * torch.randn(5, 4).double()
    states, codes, others = draws(joint, 20_000, 3)
    sampled = functional.contrastive_ratio(scores[states, codes], scores[states[:, None], others])
    error = 4 * float(sampled.std()) / 20_000**0.5
    bound = float(all_codes_bound(joint, scores, 4))
    assert bound <= float(sampled.mean()) + error
    assert float(sampled.mean()) <= float(functional.mutual_information(joint)) + error
    logits = scores + joint.sum(0).log()
    classifier = functional.categorical_log_ratio(logits[states], codes, joint.sum(0).log()).mean()
    many = functional.contrastive_ratio(scores[states, codes], scores[states], joint.sum(0), 10**9)
    torch.testing.assert_close(many.mean(), classifier, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("codes", "error"), [(4, 0.25), (8, 0.1), (3, 0.5)])
def test_the_exact_log_ratio_finds_the_truth_with_many_contrasts(codes: int, error: float) -> None:
    joint = symmetric_channel(codes, error)
    truth = math.log(codes) + error * math.log(error / (codes - 1))
    truth += (1 - error) * math.log(1 - error)
    scores = (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log()
    assert float(all_codes_bound(joint, scores, 4096)) == pytest.approx(truth, abs=2e-3)
    states, latent, others = draws(joint, 4000, 511)
    sampled = functional.contrastive_ratio(scores[states, latent], scores[states[:, None], others])
    tolerance = 4 * float(sampled.std()) / 4000**0.5 + 0.01
    assert float(sampled.mean()) == pytest.approx(truth, abs=tolerance)


@given(SEEDS, st.sampled_from([1.0, 1e4]))
def test_gradients_are_finite(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    joint = (size * torch.randn(6, generator=generator)).requires_grad_()
    others = (size * torch.randn(6, 9, generator=generator)).requires_grad_()
    weights = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1, 2])
    functional.contrastive_ratio(joint, others, weights, 30).sum().backward()
    assert torch.isfinite(joint.grad).all()
    assert torch.isfinite(others.grad).all()
    assert (others.grad[:, 0] == 0).all()
    torch.testing.assert_close(joint.grad, -others.grad.sum(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(), (0,), (2, 3), (0, 3)])
def test_batches_of_any_shape(size: tuple[int, ...]) -> None:
    joint, others = torch.randn(size), torch.randn(*size, 5)
    ratio = functional.contrastive_ratio(joint, others)
    assert ratio.shape == size
    flat = functional.contrastive_ratio(joint.reshape(-1), others.reshape(-1, 5))
    torch.testing.assert_close(ratio.reshape(-1), flat)


@given(SEEDS, st.floats(1e-4, 10.0))
def test_scores_are_cosines_over_the_temperature(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    scores = functional.pair_scores(x, y, temperature)
    expected = F.cosine_similarity(x.unsqueeze(-2), y, dim=-1) / temperature
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5 / temperature)
    assert (scores.abs() <= (1 + 1e-5) / temperature).all()
    torch.testing.assert_close(functional.pair_scores(5 * x, 0.3 * y, temperature), scores)
    products = functional.pair_scores(x, y, None)
    torch.testing.assert_close(products, torch.einsum("abd,md->abm", x, y))


def test_no_vector_has_a_score_of_zero_and_a_finite_gradient() -> None:
    x, y = torch.zeros(2, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    scores = functional.pair_scores(x, y + torch.tensor([[0.0], [1.0], [1.0], [0.0]]), 0.1)
    assert (scores == 0).all()
    scores.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize("length", [1e-4, 1e-3, 1e-2])
def test_vectors_shorter_than_a_thousandth_are_not_stretched_to_length_one(length: float) -> None:
    unit, short = torch.tensor([[0.6, 0.8]]), length * torch.tensor([[0.6, 0.8]])
    expected = pytest.approx(2 * min(length / 1e-3, 1.0))
    assert float(functional.pair_scores(short, unit, 0.5)) == expected
    assert float(functional.pair_scores(unit, short, 0.5)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ratio_has_the_dtype_of_the_scores_whatever_the_weights(dtype: torch.dtype) -> None:
    joint, others = torch.randn(4, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    for weights in (torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([5, 3, 2])):
        ratio = functional.contrastive_ratio(joint, others, weights)
        assert ratio.dtype == dtype
