"""What holds of every estimator that claims it, for any prior, parameters and features."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn

from modereg import functional
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior, NormalPrior, Prior
from modereg.testing.strategies import batch_shapes, codes, features, logits, priors, tensordicts
from tests.estimators.registry import CASES, LATENT, SHAPES, Case, given_scores, named

SEEDS = st.integers(0, 2**31 - 1)
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def only(**claims: bool) -> pytest.MarkDecorator:
    names = named(**claims)
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


GIVEN = pytest.mark.parametrize(("make", "largest"), given_scores.values(), ids=given_scores.keys())


def drawn(
    data: st.DataObject,
    case: Case,
    kinds: tuple[str, ...] = ("ordinary", "wild", "zero"),
    **options: object,
) -> tuple[RewardEstimator, TensorDict]:
    """Draw an estimator and a batch for it."""
    prior = data.draw(case.priors)
    estimator = case.build(prior, data.draw(SEEDS))
    batch = tensordicts(
        SHAPES,
        prior,
        latent_key=LATENT,
        kinds=kinds,
        transitions=estimator.transitions,
        **options,
    )
    return estimator, data.draw(batch)


@torch.no_grad()
def scaled(estimator: RewardEstimator, factor: float) -> RewardEstimator:
    for parameter in estimator.parameters():
        parameter.mul_(factor)
    return estimator


# --- any estimator


@ALL
@given(data=st.data(), factor=st.sampled_from([1.0, 10.0, 100.0]))
def test_no_reward_exceeds_the_limit(case: Case, data: st.DataObject, factor: float) -> None:
    estimator, batch = drawn(data, case)
    ratio = scaled(estimator, factor).log_ratio(batch)
    assert not ratio.isnan().any()
    limit = estimator.upper_limit
    assert bool((ratio <= limit + 1e-5 * (1.0 + abs(limit))).all())


@ALL
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_shape_dtype_and_data_are_kept(case: Case, data: st.DataObject, dtype: torch.dtype) -> None:
    estimator, batch = drawn(data, case, dtype=dtype)
    before = batch.clone()
    estimator = estimator.to(dtype)
    for value in (estimator.log_ratio(batch), estimator.sample_loss(batch)):
        assert value.shape == batch.batch_size
        assert value.dtype == dtype
        assert bool(torch.isfinite(value).all())
    assert set(batch.keys(True, True)) == set(before.keys(True, True))
    assert bool((batch == before).all())


@ALL
@given(data=st.data())
def test_rows_do_not_depend_on_each_other(case: Case, data: st.DataObject) -> None:
    estimator, batch = drawn(data, case, ("ordinary",), batches=st.just((5,)))
    order = data.draw(st.permutations(range(5)))
    whole = estimator.log_ratio(batch)
    torch.testing.assert_close(estimator.log_ratio(batch[order]), whole[order])
    torch.testing.assert_close(estimator.log_ratio(batch[2]), whole[2])


@ALL
@given(data=st.data())
def test_both_precisions_agree(case: Case, data: st.DataObject) -> None:
    estimator, batch = drawn(data, case, ("ordinary", "zero"))
    single = estimator.log_ratio(batch).double()
    wide = batch.exclude(LATENT).to(torch.float64).set(LATENT, batch.get(LATENT))
    double = estimator.double().log_ratio(wide)
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)


@ALL
@given(data=st.data())
def test_gradients_are_finite(case: Case, data: st.DataObject) -> None:
    estimator, batch = drawn(data, case, batches=batch_shapes().map(lambda b: (2, *b)))
    torch.random.default_generator.manual_seed(0)
    if batch.numel():
        estimator.loss(batch).backward()
    for parameter in estimator.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


@ALL
@given(data=st.data())
def test_gradients_reach_every_parameter_that_should_have_one(
    case: Case, data: st.DataObject
) -> None:
    prior = data.draw(case.priors if not case.discrete else priors(2, 5, zeros=False))
    estimator = case.build(prior, data.draw(SEEDS))
    batch = tensordicts(
        SHAPES,
        prior,
        latent_key=LATENT,
        kinds=("ordinary",),
        transitions=estimator.transitions,
        batches=st.just((12,)),
    )
    torch.random.default_generator.manual_seed(0)
    estimator.loss(data.draw(batch)).backward()
    reached = {
        name
        for name, parameter in estimator.named_parameters()
        if parameter.grad is not None and bool((parameter.grad != 0).any())
    }
    assert reached | case.idle == {name for name, _ in estimator.named_parameters()}


# --- a q that knows nothing, and one that knows all


@torch.no_grad()
def silenced(estimator: RewardEstimator) -> RewardEstimator:
    """Make the estimator's network say the same of every state: the prior, or zeros."""
    last = estimator.network.module.network.layers[-1]
    last.weight.zero_()
    last.bias.zero_()
    if len(last.bias) == estimator.prior.num_codes:
        last.bias.copy_(estimator.prior.log_probs)
    return estimator


@only(bound=True)
@given(data=st.data())
def test_a_q_that_is_the_prior_pays_nothing(case: Case, data: st.DataObject) -> None:
    estimator, batch = drawn(data, case)
    ratio = silenced(estimator).log_ratio(batch)
    torch.testing.assert_close(ratio, torch.zeros_like(ratio), rtol=0, atol=2e-6)


@GIVEN
@given(data=st.data())
def test_a_perfect_q_pays_the_most(make: object, largest: object, data: st.DataObject) -> None:
    prior = data.draw(priors(1, 6))
    latent = data.draw(codes(prior, (7,)))
    scores = 1e4 * nn.functional.one_hot(latent, prior.num_codes).double()
    batch = TensorDict({"history": scores, "latent": latent}, [7])
    estimator = make(prior).double()
    torch.testing.assert_close(estimator.log_ratio(batch), largest(prior, latent))
    assert float(largest(prior, latent).max()) <= estimator.upper_limit + 1e-9


@given(data=st.data())
def test_a_perfect_q_is_paid_the_entropy_on_average(data: st.DataObject) -> None:
    prior = data.draw(priors(1, 6))
    make, _ = given_scores["categorical"]
    latent = prior.probs.nonzero().squeeze(-1)
    scores = 1e4 * nn.functional.one_hot(latent, prior.num_codes).double()
    ratio = make(prior).log_ratio(TensorDict({"history": scores, "latent": latent}, [len(latent)]))
    assert float((prior.probs[latent] * ratio).sum()) == pytest.approx(prior.entropy)


# --- codes by other names, and logits shifted


@torch.no_grad()
def renamed(case: Case, estimator: RewardEstimator, order: Tensor) -> RewardEstimator:
    """Return the estimator that calls code ``order[j]`` by the name j."""
    other = case.make(CategoricalPrior(estimator.prior.probs[order]))
    other.load_state_dict(estimator.state_dict())
    table = getattr(other, "code_network", None)
    if table is not None:
        table.weight.copy_(table.weight[:, order])
        return other
    last = other.network.module.network.layers[-1]
    last.weight.copy_(last.weight[order])
    last.bias.copy_(last.bias[order])
    return other


@only(discrete=True)
@given(data=st.data())
def test_permuting_the_codes_changes_nothing(case: Case, data: st.DataObject) -> None:
    estimator, batch = drawn(data, case, ("ordinary",))
    order = torch.tensor(data.draw(st.permutations(range(estimator.prior.num_codes))))
    other = renamed(case, estimator, order)
    relabelled = batch.clone().set(LATENT, order.argsort()[batch.get(LATENT)])
    torch.testing.assert_close(
        other.log_ratio(relabelled), estimator.log_ratio(batch), rtol=1e-4, atol=1e-5
    )


@GIVEN
@given(data=st.data(), shift=st.floats(-1e3, 1e3))
def test_adding_a_constant_to_the_logits_changes_nothing(
    make: object, largest: object, data: st.DataObject, shift: float
) -> None:
    prior = data.draw(priors(1, 6))
    batch = data.draw(tensordicts({"history": (prior.num_codes,)}, prior, dtype=torch.float64))
    shifted = batch.clone().set("history", batch.get("history") + shift)
    estimator = make(prior).double()
    torch.testing.assert_close(
        estimator.log_ratio(shifted), estimator.log_ratio(batch), rtol=1e-9, atol=1e-9
    )


@GIVEN
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_extreme_logits_stay_finite(
    make: object, largest: object, data: st.DataObject, dtype: torch.dtype
) -> None:
    prior, batch = data.draw(priors(1, 6)), data.draw(batch_shapes())
    scores = data.draw(logits(prior.num_codes, batch, dtype=dtype)).requires_grad_()
    latent = data.draw(codes(prior, batch))
    estimator = make(prior).to(dtype)
    given_batch = TensorDict({"history": scores, "latent": latent}, list(batch))
    ratio = estimator.log_ratio(given_batch)
    assert bool(torch.isfinite(ratio).all())
    ratio.sum().backward()
    assert bool(torch.isfinite(scores.grad).all())


@given(data=st.data())
def test_masked_codes_pay_minus_infinity_and_the_others_as_if_they_were_alone(
    data: st.DataObject,
) -> None:
    prior = data.draw(priors(2, 6, zeros=False))
    scores = data.draw(logits(prior.num_codes, (4,), kinds=("masked",)))
    latent = data.draw(codes(prior, (4,)))
    estimator = given_scores["categorical"][0](prior)
    ratio = estimator.log_ratio(TensorDict({"history": scores, "latent": latent}, [4]))
    masked = scores.gather(-1, latent.unsqueeze(-1)).squeeze(-1) == -math.inf
    assert bool((ratio[masked] == -math.inf).all())
    assert bool((ratio[~masked] <= estimator.upper_limit + 1e-6).all())


# --- exact expectations

# With contrasts that are drawn it holds on average over them: tests/estimators/test_contrastive.py.
EXACT = [name for name in named(bound=True) if name != "contrastive_continuous"]


def quadrature(prior: Prior) -> tuple[Tensor, Tensor]:
    """Return codes ``[G, ...]`` and weights ``[G]`` that integrate over the prior."""
    if isinstance(prior, CategoricalPrior):
        support = prior.probs.nonzero().squeeze(-1)
        return support, prior.probs[support]
    if isinstance(prior, NormalPrior):
        grid = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64).unsqueeze(-1)
        return grid, prior.log_prob(grid).exp() * 1e-3
    angles = torch.arange(2_000, dtype=torch.float64) * (2 * math.pi / 2_000)
    return torch.stack([angles.cos(), angles.sin()], -1), torch.full((2_000,), 5e-4).double()


def over_codes(estimator: RewardEstimator, state: TensorDict) -> tuple[Tensor, Tensor]:
    """Return the reward of each code in one state, and the codes' weights, ``[G]`` each."""
    grid, weights = quadrature(estimator.prior)
    batch = state.exclude(LATENT, "next").to(torch.float64).expand(len(grid)).clone()
    return estimator.double().log_ratio(batch.set(LATENT, grid)).detach(), weights


@only(posterior=True)
@given(data=st.data())
def test_prior_times_ratio_is_a_distribution(case: Case, data: st.DataObject) -> None:
    """Over the support; what q gives to codes that are never drawn is lost."""
    estimator, state = drawn(data, case, ("ordinary",), batches=st.just(()))
    ratio, weights = over_codes(estimator, state)
    lost = 0.0
    if case.discrete:
        dead = estimator.prior.probs == 0
        lost = float(estimator.log_prob(state.double()).detach().exp()[dead].sum())
    assert float((weights * ratio.exp()).sum()) + lost == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("case", [CASES[name] for name in EXACT], ids=EXACT)
@given(data=st.data())
def test_a_code_that_never_touches_the_state_is_worth_nothing(
    case: Case, data: st.DataObject
) -> None:
    estimator, state = drawn(data, case, ("ordinary", "zero"), batches=st.just(()))
    ratio, weights = over_codes(estimator, state)
    assert float((weights * ratio.exp()).sum()) <= 1.0 + 1e-6
    assert float((weights * ratio).sum()) <= 1e-6


@pytest.mark.parametrize("case", [CASES["metra"], CASES["lsd"]], ids=["metra", "lsd"])
@given(data=st.data())
def test_directions_of_codes_pay_nothing_on_average(case: Case, data: st.DataObject) -> None:
    estimator, state = drawn(data, case, ("ordinary",), batches=st.just(()))
    ratio, weights = over_codes(estimator, state)
    assert float((weights * ratio).sum()) == pytest.approx(0.0, abs=1e-6)


@st.composite
def joints(draw: st.DrawFn, max_states: int = 5, max_codes: int = 4) -> Tensor:
    """Joint distributions of states and codes, ``[S, K]``; no code is left out."""
    states, number = draw(st.integers(1, max_states)), draw(st.integers(2, max_codes))
    cells = st.lists(st.integers(0, 9), min_size=states * number, max_size=states * number)
    table = torch.tensor(draw(cells), dtype=torch.float64).view(states, number)
    table = table + 1e-3
    return table / table.sum()


def expected(make: object, joint: Tensor, scores: Tensor) -> float:
    """Return the estimate under a joint distribution, exactly, with these scores ``[S, K]``."""
    estimator = make(CategoricalPrior(joint.sum(0))).double()
    states, number = joint.shape
    batch = TensorDict({}, [states, number])
    batch.set("history", scores[:, None].expand(states, number, number))
    batch.set("latent", torch.arange(number).expand(states, number))
    return float((joint * estimator.log_ratio(batch).detach()).sum())


@GIVEN
@given(data=st.data(), joint=joints())
def test_no_scores_report_more_than_the_information(
    make: object, largest: object, data: st.DataObject, joint: Tensor
) -> None:
    size = data.draw(st.sampled_from([0.0, 1.0, 10.0]))
    scores = size * data.draw(features((joint.shape[1],), (joint.shape[0],), kinds=("ordinary",)))
    truth = float(functional.mutual_information(joint))
    assert expected(make, joint, scores.double()) <= truth + 1e-9
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    assert expected(make, independent, scores.double()) <= 1e-9


@given(data=st.data(), joint=joints())
def test_the_gap_is_the_expected_divergence_from_the_posterior(
    data: st.DataObject, joint: Tensor
) -> None:
    make, _ = given_scores["categorical"]
    scores = data.draw(features((joint.shape[1],), (joint.shape[0],), kinds=("ordinary",))).double()
    posterior = joint / joint.sum(1, keepdim=True)
    divergence = (posterior * (posterior.log() - scores.log_softmax(-1))).sum(-1)
    gap = float((joint.sum(1) * divergence).sum())
    truth = float(functional.mutual_information(joint))
    assert truth - expected(make, joint, scores) == pytest.approx(gap, abs=1e-9)
    assert expected(make, joint, posterior.log()) == pytest.approx(truth, abs=1e-9)


def merged(table: Tensor, first: int, second: int, dim: int) -> Tensor:
    """Return a joint distribution in which two rows, or columns, are one."""
    index = torch.arange(table.shape[dim])
    index[second] = first
    _, index = index.unique(return_inverse=True)
    size = list(table.shape)
    size[dim] = int(index.max()) + 1
    return table.new_zeros(size).index_add_(dim, index, table)


@pytest.mark.parametrize("dim", [0, 1], ids=["data processing", "merging codes"])
@GIVEN
@given(data=st.data(), joint=joints())
def test_what_is_merged_cannot_be_worth_more(
    make: object, largest: object, dim: int, data: st.DataObject, joint: Tensor
) -> None:
    first, second = (data.draw(st.integers(0, joint.shape[dim] - 1)) for _ in range(2))
    coarse = merged(joint, first, second, dim)
    fine = float(functional.mutual_information(joint))
    ratio = (coarse / coarse.sum(1, keepdim=True)).log() - coarse.sum(0).log()
    assert expected(make, coarse, ratio + coarse.sum(0).log()) <= fine + 1e-9
