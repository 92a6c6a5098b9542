"""The battery passes what is right; what is wrong is planted in test_faults."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.estimators import CategoricalMI
from modereg.networks import MLP, InputNoise
from modereg.priors import CategoricalPrior
from modereg.testing.estimators import check_estimator

SKEWED = CategoricalPrior(torch.tensor([0.5, 0.2, 0.0, 0.2, 0.1]))


def classifier(**options: object) -> CategoricalMI:
    return CategoricalMI(InputNoise(MLP(6, 4, (16,))), 4, **options)


def test_a_right_estimator_passes() -> None:
    check_estimator(classifier, 6, posterior=True, rows=1024)


def test_nested_keys_a_skewed_prior_and_features_of_the_root() -> None:
    def make() -> CategoricalMI:
        keys = {"in_keys": [("agent", "a"), "b"], "latent_key": ("agent", "z")}
        return CategoricalMI(MLP(5, 5, (16,)), SKEWED, source="root", **keys)

    check_estimator(make, {("agent", "a"): (2,), "b": (3,)}, learn=False)


def test_it_leaves_no_trace() -> None:
    state = torch.random.get_rng_state()
    check_estimator(classifier, 6, learn=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_features_than_it_reads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a shape of each of \['history'\], in this order, got"):
        check_estimator(classifier, {"other": (6,)})


def test_a_network_for_all_is_refused() -> None:
    network = MLP(6, 4, (16,))
    with pytest.raises(ValueError, match="two that share parameters; make the network within it"):
        check_estimator(lambda: CategoricalMI(network, 4), 6)


def test_too_much_to_ask_for() -> None:
    with pytest.raises(AssertionError, match="less than the 1.3.* that were asked for"):
        check_estimator(classifier, 6, steps=3, least_share=0.99, rows=256)


def test_idle_parameters_have_to_be_named() -> None:
    def make() -> CategoricalMI:
        estimator = classifier()
        estimator.unused = torch.nn.Parameter(torch.zeros(()))
        return estimator

    with pytest.raises(AssertionError, match=r"passes no gradient to \['unused'\]"):
        check_estimator(make, 6, learn=False)
    check_estimator(make, 6, idle=["unused"], learn=False)


class WithoutPriorAndConventions(CategoricalMI):
    """Leaves the prior out, and raises what a dictionary does where an entry is missing."""

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        tensordict["history"]
        return super().log_ratio(tensordict) + self.prior.log_prob(tensordict["latent"])


class WithoutConventions(CategoricalMI):
    """Only the latter."""

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        tensordict["history"]
        return super().log_ratio(tensordict)


def test_a_convention_hides_no_fault_of_meaning() -> None:
    with pytest.raises(AssertionError, match="not the logarithm of a distribution over codes"):
        check_estimator(lambda: WithoutPriorAndConventions(6, 4), 6, posterior=True, learn=False)
    with pytest.raises(AssertionError, match="raised KeyError where .* raise KeyMismatchError"):
        check_estimator(lambda: WithoutConventions(6, 4), 6, posterior=True, learn=False)
