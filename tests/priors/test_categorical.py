"""Discrete priors: probabilities, features, samples, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from modereg.errors import ConfigurationError
from modereg.priors import CategoricalPrior, as_prior


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
def test_categorical_agrees_with_torch(weights: list[float]) -> None:
    reference = Categorical(probs=torch.tensor(weights, dtype=torch.float64))
    prior = as_prior(reference)
    codes = torch.arange(len(weights))
    assert prior.num_codes == prior.feature_dim == len(weights)
    torch.testing.assert_close(prior.log_prob(codes), reference.log_prob(codes).float())
    assert prior.entropy == pytest.approx(float(reference.entropy()), abs=1e-12)
    torch.testing.assert_close(prior.features(codes), torch.eye(len(weights)))


def test_samples_follow_the_probabilities() -> None:
    prior = CategoricalPrior(torch.tensor([0.1, 0.0, 0.9]))
    codes = prior.sample(torch.Size([100, 100]))
    assert codes.shape == (100, 100)
    assert codes.dtype == torch.int64
    share = torch.bincount(codes.flatten(), minlength=3) / codes.numel()
    assert float(share[1]) == 0.0
    assert float(share[0]) == pytest.approx(0.1, abs=0.015)
    assert prior.sample(torch.Size([])).shape == ()
    assert prior.sample(torch.Size([0, 3])).shape == (0, 3)


def test_samples_repeat_with_the_seed() -> None:
    prior = CategoricalPrior(8)
    torch.manual_seed(3)
    first = prior.sample(torch.Size([50]))
    torch.manual_seed(3)
    assert torch.equal(prior.sample(torch.Size([50])), first)


def test_impossible_codes_have_no_probability_and_no_entropy() -> None:
    prior = CategoricalPrior(torch.tensor([0.5, 0.0, 0.5]))
    assert prior.entropy == pytest.approx(math.log(2))
    assert float(prior.log_prob(torch.tensor(1))) == -math.inf


@pytest.mark.parametrize(
    ("probs", "sentence"),
    [
        (torch.tensor([0.5, 0.4]), "sum to one, got a sum of 0.9"),
        (torch.tensor([1.5, -0.5]), "non-negative"),
        (torch.tensor([float("nan"), 1.0]), "finite"),
        (torch.tensor([[0.5, 0.5]]), "vector"),
        (0, "at least one code"),
        (-2, "at least one code"),
    ],
)
def test_what_is_no_distribution_is_refused(probs: torch.Tensor | int, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        CategoricalPrior(probs)


@pytest.mark.parametrize("read", ["features", "log_prob"])
def test_a_code_that_is_none_is_refused(read: str) -> None:
    """-1 would be read as the last code, and K end the process of an accelerator."""
    function = getattr(CategoricalPrior(3), read)
    for code in (-1, 3):
        with pytest.raises(ConfigurationError, match=r"codes in \[0, 3\), got some between"):
            function(torch.tensor([0, code]))
    with pytest.raises(ConfigurationError, match="integer codes, got torch.float32"):
        function(torch.tensor([1.0]))
    assert len(function(torch.zeros(0, dtype=torch.int64))) == 0


def test_who_shares_it_draws_by_its_new_probabilities() -> None:
    prior = CategoricalPrior(3)
    prior.weigh(torch.tensor([0.0, 0.25, 0.75]))
    weights = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(prior.probs, weights)
    assert prior.entropy == pytest.approx(float(torch.special.entr(weights).sum()))
    assert prior.largest_surprise == pytest.approx(float(-weights[1].log()))
    assert set(prior.sample(torch.Size([200])).tolist()) == {1, 2}
    with pytest.raises(ConfigurationError, match="of 3 codes, got 2"):
        prior.weigh(torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(prior.probs, weights)
