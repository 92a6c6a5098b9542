"""The equations against closed forms, torch.distributions, scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist
from scipy.stats import entropy as scipy_entropy
from sklearn import metrics as sk
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.nn import functional as F

from modereg import functional

SEEDS = st.integers(0, 10_000)


def batch(seed: int, size: int = 40, codes: int = 5) -> tuple[torch.Tensor, ...]:
    """Return logits, codes and log prior of a random problem, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, codes, generator=generator, dtype=torch.float64)
    latent = torch.randint(codes, (size,), generator=generator)
    weights = torch.rand(codes, generator=generator, dtype=torch.float64) + 0.05
    return logits, latent, (weights / weights.sum()).log()


@given(SEEDS)
def test_log_ratio_is_the_difference_of_two_log_probabilities(seed: int) -> None:
    logits, latent, log_prior = batch(seed)
    expected = Categorical(logits=logits).log_prob(latent) - Categorical(logits=log_prior).log_prob(
        latent
    )
    torch.testing.assert_close(
        functional.categorical_log_ratio(logits, latent, log_prior), expected
    )


@given(SEEDS, st.floats(0.0, 1e4))
def test_log_ratio_stays_under_its_limit(seed: int, size: float) -> None:
    logits, latent, log_prior = batch(seed)
    ratio = functional.categorical_log_ratio(size * logits, latent, log_prior)
    assert torch.isfinite(ratio).all()
    assert (ratio <= -log_prior[latent]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_finite_and_exact(dtype: torch.dtype) -> None:
    logits = 1e4 * torch.eye(3, dtype=dtype)[[0, 0]]
    ratio = functional.categorical_log_ratio(
        logits, torch.tensor([0, 1]), torch.full((3,), -math.log(3.0))
    )
    assert ratio.dtype == dtype
    torch.testing.assert_close(
        ratio, torch.tensor([math.log(3.0), math.log(3.0) - 1e4], dtype=dtype)
    )


@given(SEEDS)
def test_q_equal_to_the_prior_pays_nothing(seed: int) -> None:
    _, latent, log_prior = batch(seed)
    logits = log_prior.expand(len(latent), -1)
    ratio = functional.categorical_log_ratio(logits, latent, log_prior)
    torch.testing.assert_close(ratio, torch.zeros_like(ratio), atol=1e-14, rtol=0)


def test_uniform_q_and_prior_pay_exactly_nothing() -> None:
    latent, log_prior = torch.arange(8), torch.full((8,), -math.log(8.0))
    ratio = functional.categorical_log_ratio(torch.zeros(8, 8), latent, log_prior)
    assert (ratio == 0).all()


@given(SEEDS)
def test_a_perfect_q_pays_minus_log_p(seed: int) -> None:
    _, latent, log_prior = batch(seed)
    logits = 1e3 * F.one_hot(latent, 5).double()
    torch.testing.assert_close(
        functional.categorical_log_ratio(logits, latent, log_prior), -log_prior[latent]
    )


@given(SEEDS, st.floats(-50, 50))
def test_log_ratio_ignores_shifts_and_names(seed: int, shift: float) -> None:
    logits, latent, log_prior = batch(seed)
    ratio = functional.categorical_log_ratio(logits, latent, log_prior)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    inverse = order.argsort()
    renamed = functional.categorical_log_ratio(
        logits[:, order] + shift, inverse[latent], log_prior[order]
    )
    torch.testing.assert_close(renamed, ratio)


def joint(seed: int, states: int = 6, codes: int = 4) -> torch.Tensor:
    """Return a random joint distribution p(s, z), ``[S, K]``."""
    table = torch.rand(states, codes, generator=torch.Generator().manual_seed(seed)).double()
    table = table.pow(4) + 1e-6
    return table / table.sum()


def expected_bound(table: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return E[log q - log p] under the joint exactly."""
    states, codes = table.shape
    latent = torch.arange(codes).expand(states, codes)
    ratio = functional.categorical_log_ratio(
        logits[:, None].expand(states, codes, codes), latent, table.sum(0).log()
    )
    return (table * ratio).sum()


@given(SEEDS)
def test_the_gap_of_the_bound_is_the_expected_kl(seed: int) -> None:
    table = joint(seed)
    logits = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)).double()
    posterior = Categorical(probs=table / table.sum(1, keepdim=True))
    gap = (table.sum(1) * kl_divergence(posterior, Categorical(logits=logits))).sum()
    information = functional.mutual_information(table)
    torch.testing.assert_close(information - expected_bound(table, logits), gap)
    torch.testing.assert_close(expected_bound(table, posterior.logits), information)


@given(SEEDS)
def test_a_code_that_never_touches_the_state_has_no_positive_bound(seed: int) -> None:
    table = joint(seed)
    independent = table.sum(1, keepdim=True) * table.sum(0)
    logits = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)).double()
    assert expected_bound(independent, logits) <= 1e-12


@given(SEEDS)
def test_losses_are_torch_s_cross_entropy(seed: int) -> None:
    logits, latent, log_prior = batch(seed)
    torch.testing.assert_close(
        functional.inference_nll(logits, latent), F.cross_entropy(logits, latent, reduction="none")
    )
    loss = functional.inference_loss(logits, latent)
    torch.testing.assert_close(loss, F.cross_entropy(logits, latent))
    bound = functional.variational_bound(logits, latent, log_prior)
    torch.testing.assert_close(bound, -loss - log_prior[latent].mean())


def test_batches_may_have_any_number_of_dimensions() -> None:
    logits, latent, log_prior = batch(0)
    ratio = functional.categorical_log_ratio(
        logits.view(2, 4, 5, 5), latent.view(2, 4, 5), log_prior
    )
    torch.testing.assert_close(
        ratio.flatten(), functional.categorical_log_ratio(logits, latent, log_prior)
    )


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.5, 1.0))
def test_discounted_shaping_telescopes(potential: list[float], gamma: float) -> None:
    generator = torch.Generator().manual_seed(len(potential))
    steps = torch.randint(1, 9, (len(potential) - 1,), generator=generator)
    values = torch.tensor(potential, dtype=torch.float64)
    pay = functional.shaping(values[1:], values[:-1], gamma, steps)
    elapsed = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    total = (gamma ** elapsed[:-1] * pay).sum()
    expected = gamma ** elapsed[-1] * values[-1] - values[0]
    torch.testing.assert_close(total, expected.double())


def test_clipped_surrogate_by_cases() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.1, 2.0, 2.0])
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    expected = torch.tensor([0.5, -0.8, 2.2, 1.2, -2.0])
    torch.testing.assert_close(functional.clipped_surrogate(ratio.log(), advantage, 0.2), expected)


@given(SEEDS, st.integers(1, 2))
def test_kl_to_the_standard_normal(seed: int, event_dims: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(3, 4, 2, generator=generator)
    scale = 0.1 + torch.rand(3, 4, 2, generator=generator)
    expected = kl_divergence(
        Independent(Normal(loc, scale), event_dims),
        Independent(Normal(torch.zeros_like(loc), torch.ones_like(scale)), event_dims),
    )
    torch.testing.assert_close(functional.kl_standard_normal(loc, scale, event_dims), expected)


COUNTS = hnp.arrays(np.int64, st.integers(2, 9), elements=st.integers(0, 50)).filter(
    lambda counts: counts.sum() > 0
)


@given(COUNTS)
def test_entropies(counts: np.ndarray) -> None:
    weights, modes = torch.from_numpy(counts), len(counts)
    expected = float(scipy_entropy(counts))
    assert float(functional.entropy(weights)) == pytest.approx(expected, abs=1e-12)
    assert float(functional.normalized_entropy(weights, modes)) == pytest.approx(
        expected / math.log(modes), abs=1e-12
    )
    assert float(functional.effective_number(weights)) == pytest.approx(math.exp(expected))
    assert 0 <= functional.normalized_entropy(weights, modes) <= 1 + 1e-12


def test_entropy_at_the_edges() -> None:
    assert float(functional.entropy(torch.zeros(4))) == 0.0
    assert float(functional.normalized_entropy(torch.tensor([7]), 1)) == 0.0
    assert float(functional.effective_number(torch.full((6,), 3))) == pytest.approx(6.0)
    batched = functional.entropy(torch.tensor([[1, 1], [2, 0]]))
    torch.testing.assert_close(batched, torch.tensor([math.log(2.0), 0.0]).double())


@pytest.mark.parametrize("error", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("codes", [2, 8])
def test_mutual_information_of_a_symmetric_channel(codes: int, error: float) -> None:
    table = torch.full((codes, codes), error / (codes - 1)).double()
    table.fill_diagonal_(1 - error)
    expected = math.log(codes) - float(scipy_entropy([error, 1 - error]))
    expected -= error * math.log(codes - 1)
    assert float(functional.mutual_information(table / codes)) == pytest.approx(expected)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_partitions_agree_with_scikit_learn(seed: int, first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(first, (50,), generator=generator)
    y = torch.where(torch.rand(50, generator=generator) < 0.5, x % second, x.flip(0) % second)
    table = functional.contingency(x, y, first, second)
    assert int(table.sum()) == 50
    assert float(functional.mutual_information(table)) == pytest.approx(
        sk.mutual_info_score(x, y), abs=1e-9
    )
    assert float(functional.normalized_mutual_information(table)) == pytest.approx(
        sk.normalized_mutual_info_score(x, y), abs=1e-9
    )
    assert float(functional.adjusted_rand_index(table)) == pytest.approx(
        sk.adjusted_rand_score(x, y), abs=1e-9
    )


@given(SEEDS)
def test_information_is_symmetric_bounded_and_falls_when_codes_merge(seed: int) -> None:
    table = joint(seed)
    information = functional.mutual_information(table)
    torch.testing.assert_close(information, functional.mutual_information(table.T))
    assert 0 <= information <= functional.entropy(table.sum(0)) + 1e-12
    merged = torch.cat([table[:, :1] + table[:, 1:2], table[:, 2:]], 1)
    assert functional.mutual_information(merged) <= information + 1e-12


def test_renamed_partitions_agree_completely() -> None:
    x = torch.arange(24) % 4
    table = functional.contingency(x, (x + 1) % 4, 4, 4)
    assert float(functional.normalized_mutual_information(table)) == pytest.approx(1.0)
    assert float(functional.adjusted_rand_index(table)) == pytest.approx(1.0)


@given(SEEDS)
def test_distances_and_nearest_centroids(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = cdist(x, y, "sqeuclidean")
    np.testing.assert_allclose(functional.squared_distances(x, y), expected, rtol=1e-9)
    np.testing.assert_array_equal(functional.nearest_centroid(x, y), expected.argmin(1))
    assert (functional.squared_distances(x, x).diagonal() == 0).all()


@given(SEEDS, st.integers(2, 6))
def test_silhouette_agrees_with_scikit_learn(seed: int, clusters: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(clusters, (80,), generator=generator) * 3
    labels[0], labels[1] = 100, 0  # a cluster of one point, and numbers with gaps
    points = torch.randn(80, 4, generator=generator, dtype=torch.float64) + labels[:, None] / 3
    assert float(functional.silhouette(points, labels)) == pytest.approx(
        sk.silhouette_score(points, labels), abs=1e-9
    )


def test_silhouette_of_one_cluster_is_zero() -> None:
    assert float(functional.silhouette(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))) == 0


def test_aliased_codes_counts_all_but_one_of_a_group() -> None:
    behaviour = torch.tensor([0, 1, 1, 1, 2])  # codes 1, 2 and 3 do the same
    latent = torch.arange(5).repeat_interleave(10)
    posterior = (behaviour[latent][:, None] == behaviour[None]).float()
    log_prob = (posterior + 1e-9).log().log_softmax(-1)
    assert int(functional.aliased_codes(log_prob, latent)) == 2
    assert int(functional.aliased_codes(10 * torch.eye(5).log_softmax(-1), torch.arange(5))) == 0
    present = latent[:20]  # only codes 0 and 1, of which neither is taken for another
    assert int(functional.aliased_codes(log_prob[:20], present)) == 0
