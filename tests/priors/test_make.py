"""What all priors share, and priors from numbers, distributions and configurations."""

from __future__ import annotations

import json

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, Uniform

from modereg.errors import ConfigurationError
from modereg.priors import (
    CategoricalPrior,
    LearnedPrior,
    NormalPrior,
    Prior,
    SphericalPrior,
    as_prior,
    prior_from_config,
)


@pytest.mark.parametrize(
    "prior", [CategoricalPrior(5), NormalPrior(3), SphericalPrior(3), LearnedPrior(5)], ids=repr
)
def test_specs_contain_samples(prior: Prior) -> None:
    codes = prior.sample(torch.Size([4, 2]))
    spec = prior.spec(torch.Size([4, 2]))
    assert spec.is_in(codes)
    assert spec.shape == codes.shape
    assert prior.features(codes).shape == (4, 2, prior.feature_dim)
    assert prior.log_prob(codes).shape == (4, 2)


@pytest.mark.parametrize(
    "prior",
    [
        CategoricalPrior(3),
        CategoricalPrior(torch.tensor([0.2, 0.8])),
        NormalPrior(4),
        SphericalPrior(4),
        LearnedPrior(torch.tensor([0.1, -2.0])),
    ],
)
def test_configurations_travel_as_json(prior: Prior) -> None:
    again = prior_from_config(json.loads(json.dumps(prior.to_config())))
    assert type(again) is type(prior)
    assert again.to_config() == prior.to_config()
    assert repr(again) == repr(prior)
    assert as_prior(again) is again


@pytest.mark.parametrize(
    "distribution",
    [
        Uniform(0, 1),
        Categorical(torch.ones(2, 3)),
        Independent(Normal(torch.ones(2), torch.ones(2)), 1),
        "eight",
    ],
)
def test_other_distributions_are_refused(distribution: object) -> None:
    with pytest.raises(ConfigurationError, match="subclass Prior"):
        as_prior(distribution)


def test_unknown_configurations_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 'beta'"):
        prior_from_config({"kind": "beta"})
