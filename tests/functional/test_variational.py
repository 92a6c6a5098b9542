"""The categorical bound against closed forms and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence
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
    bound = functional.categorical_log_ratio(logits, latent, log_prior).mean()
    torch.testing.assert_close(bound, -loss - log_prior[latent].mean())


def test_batches_may_have_any_number_of_dimensions() -> None:
    logits, latent, log_prior = batch(0)
    ratio = functional.categorical_log_ratio(
        logits.view(2, 4, 5, 5), latent.view(2, 4, 5), log_prior
    )
    torch.testing.assert_close(
        ratio.flatten(), functional.categorical_log_ratio(logits, latent, log_prior)
    )


def test_aliased_codes_counts_all_but_one_of_a_group() -> None:
    behaviour = torch.tensor([0, 1, 1, 1, 2])  # codes 1, 2 and 3 do the same
    latent = torch.arange(5).repeat_interleave(10)
    posterior = (behaviour[latent][:, None] == behaviour[None]).float()
    log_prob = (posterior + 1e-9).log().log_softmax(-1)
    assert int(functional.aliased_codes(log_prob, latent)) == 2
    assert int(functional.aliased_codes(10 * torch.eye(5).log_softmax(-1), torch.arange(5))) == 0
    present = latent[:20]  # only codes 0 and 1, of which neither is taken for another
    assert int(functional.aliased_codes(log_prob[:20], present)) == 0


@given(SEEDS)
def test_aliased_codes_are_those_whose_mean_posterior_peaks_elsewhere(seed: int) -> None:
    logits, latent, _ = batch(seed, size=9, codes=4)  # so that some codes have one sample, or none
    posterior = logits.softmax(-1)
    expected = sum(
        int(posterior[latent == code].mean(0).argmax()) != code for code in latent.unique().tolist()
    )
    assert int(functional.aliased_codes(posterior.log(), latent)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ratio_has_the_dtype_of_the_logits_whatever_the_prior_s(dtype: torch.dtype) -> None:
    logits, latent, log_prior = batch(0)
    ratio = functional.categorical_log_ratio(logits.to(dtype), latent, log_prior)
    assert ratio.dtype == dtype


def test_codes_are_counted_where_they_are() -> None:
    logits, latent, _ = batch(0)
    here = functional.aliased_codes(logits.log_softmax(-1), latent)
    with torch.device("meta"):  # what a device is not given for would be made there
        assert int(functional.aliased_codes(logits.log_softmax(-1), latent)) == int(here)


@given(SEEDS)
def test_the_group_of_a_code_has_the_probability_of_all_its_codes(seed: int) -> None:
    logits, latent, log_prior = batch(seed)
    groups = torch.tensor([0, 1, 0, 3, 1])
    log_q, rows = logits.log_softmax(-1), torch.arange(len(latent))
    sums = torch.zeros(len(latent), 5, dtype=torch.float64).index_add(1, groups, log_q.exp())
    merged = functional.merged_log_probs(log_q, groups)
    torch.testing.assert_close(merged.exp(), sums[:, groups])
    nll = functional.inference_nll(logits, latent, groups)
    torch.testing.assert_close(nll, -sums[rows, groups[latent]].log())
    prior = torch.zeros(5, dtype=torch.float64).index_add(0, groups, log_prior.exp()).log()
    ratio = functional.categorical_log_ratio(logits, latent, log_prior, groups)
    torch.testing.assert_close(ratio, -nll - prior[groups[latent]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_of_one_change_no_bit_and_empty_ones_stay_empty(dtype: torch.dtype) -> None:
    logits, latent = (3 * torch.randn(9, 4)).to(dtype), torch.arange(9) % 4
    groups = torch.tensor([2, 0, 1, 3])
    assert torch.equal(
        functional.inference_nll(logits, latent, groups), functional.inference_nll(logits, latent)
    )
    log_prior = torch.tensor([0.0, 0.0, 0.25, 0.75], dtype=dtype).log()
    merged = functional.merged_log_probs(log_prior, torch.tensor([0, 0, 2, 3]))
    assert merged.tolist() == [-math.inf, -math.inf, *log_prior[2:].tolist()]
    assert functional.merged_log_probs(log_prior, torch.tensor([0, 2, 2, 0]))[:2].tolist() == (
        pytest.approx([math.log(0.75), math.log(0.25)])
    )
