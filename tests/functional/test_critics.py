"""Critic bounds against closed forms, empirical tables and each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from modereg import functional

Estimate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SEEDS = st.integers(0, 10_000)
SIZES = st.integers(2, 12)


def js_information(joint: torch.Tensor, marginal: torch.Tensor) -> torch.Tensor:
    """What a critic is read by that was trained by the JS divergence."""
    return functional.nwj(joint + 1, marginal + 1)


ESTIMATES: dict[str, Estimate] = {
    "dv": functional.donsker_varadhan,
    "nwj": functional.nwj,
    "smile": functional.smile,
    "js": functional.jensen_shannon,
    "js_information": js_information,
    "mine": lambda joint, marginal: functional.mine(joint, marginal)[0],
    "info_nce": functional.info_nce,
}
each_estimate = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


def matrix(seed: int, size: int = 8, scale: float = 3.0) -> torch.Tensor:
    """Return random scores of all pairs, ``[size, size]`` float64."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, size, generator=generator, dtype=torch.float64)


def table(seed: int, states: int = 3, codes: int = 4) -> tuple[torch.Tensor, ...]:
    """Return samples of two discrete variables and the table of log ratios of their frequencies."""
    counts = torch.randint(1, 5, (states, codes), generator=torch.Generator().manual_seed(seed))
    x, y = counts.nonzero().repeat_interleave(counts.flatten(), 0).T
    share = counts.double() / counts.sum()
    return x, y, share, share.log() - share.sum(0).log() - share.sum(1, keepdim=True).log()


@given(SEEDS, SIZES)
def test_split_scores_keeps_rows(seed: int, size: int) -> None:
    scores = matrix(seed, size)
    joint, marginal = functional.split_scores(scores)
    assert torch.equal(joint, scores.diagonal())
    for row in range(size):
        others = torch.cat([scores[row, :row], scores[row, row + 1 :]])
        assert torch.equal(marginal[row], others)


@given(SEEDS, st.sampled_from([None, 0, 1]))
def test_log_mean_exp_is_logsumexp_less_log_n(seed: int, dim: int | None) -> None:
    scores = matrix(seed, scale=30.0)
    scores[0, :3] = -torch.inf
    if dim is None:
        expected = torch.logsumexp(scores.flatten(), 0) - math.log(64)
    else:
        expected = torch.logsumexp(scores, dim) - math.log(8)
    torch.testing.assert_close(functional.log_mean_exp(scores, dim), expected)


def test_log_mean_exp_of_nothing_possible() -> None:
    assert float(functional.log_mean_exp(torch.full((3,), -torch.inf))) == -torch.inf


@given(SEEDS, SIZES, st.floats(0.0, 1e4))
def test_info_nce_is_at_most_log_n(seed: int, size: int, scale: float) -> None:
    scores = matrix(seed, size, scale)
    found = functional.info_nce(*functional.split_scores(scores))
    assert torch.isfinite(found)
    assert found <= math.log(size) + 1e-12


@given(SIZES, st.floats(-1e4, 1e4))
def test_a_constant_critic_knows_nothing(size: int, level: float) -> None:
    pair = functional.split_scores(torch.full((size, size), level, dtype=torch.float64))
    assert float(functional.info_nce(*pair)) == 0.0
    assert float(functional.donsker_varadhan(*pair)) == pytest.approx(0.0, abs=1e-11)
    assert float(functional.mine(*pair)[0]) == pytest.approx(0.0, abs=1e-11)
    assert float(functional.smile(*pair, clip=2e4)) == pytest.approx(0.0, abs=1e-11)
    assert float(js_information(*pair)) <= 0.0
    assert float(functional.nwj(*pair)) <= 0.0


def test_what_the_shifted_bounds_say_of_constants() -> None:
    zeros = functional.split_scores(torch.zeros(5, 5, dtype=torch.float64))
    ones = functional.split_scores(torch.ones(5, 5, dtype=torch.float64))
    assert float(functional.nwj(*ones)) == pytest.approx(0.0, abs=1e-15)
    assert float(functional.nwj(*zeros)) == pytest.approx(-math.exp(-1))
    assert float(js_information(*zeros)) == pytest.approx(0.0, abs=1e-15)
    assert float(functional.jensen_shannon(*zeros)) == pytest.approx(0.0, abs=1e-15)


@given(SEEDS, SIZES, st.floats(0.0, 100.0))
def test_nwj_is_at_most_donsker_varadhan(seed: int, size: int, scale: float) -> None:
    pair = functional.split_scores(matrix(seed, size, scale))
    bound = functional.donsker_varadhan(*pair) + 1e-9
    assert functional.nwj(*pair) <= bound
    assert js_information(*pair) <= bound


@given(SEEDS, st.floats(0.0, 1e4))
def test_js_is_at_most_log_2(seed: int, scale: float) -> None:
    found = functional.jensen_shannon(*functional.split_scores(matrix(seed, scale=scale)))
    assert torch.isfinite(found)
    assert found <= math.log(2.0)


@given(SEEDS)
def test_smile_tends_to_donsker_varadhan(seed: int) -> None:
    joint, marginal = functional.split_scores(matrix(seed))
    bound = functional.donsker_varadhan(joint, marginal)
    assert functional.smile(joint, marginal, float(marginal.abs().max())) == bound
    gaps = [abs(functional.smile(joint, marginal, clip) - bound) for clip in (1e-6, 3.0, 12.0)]
    assert gaps[2] <= gaps[1] + 1e-12
    torch.testing.assert_close(functional.smile(joint, marginal, 1e-12), joint.mean())


def test_smile_clips_at_5_nats_unless_told_otherwise() -> None:
    joint, marginal = functional.split_scores(matrix(0, scale=10.0))
    assert functional.smile(joint, marginal) == functional.smile(joint, marginal, 5.0)
    assert functional.smile(joint, marginal) != functional.smile(joint, marginal, 6.0)


@each_estimate
@given(SEEDS)
def test_the_order_of_the_samples_does_not_matter(estimate: Estimate, seed: int) -> None:
    scores = matrix(seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    renamed = functional.split_scores(scores[order][:, order])
    torch.testing.assert_close(estimate(*renamed), estimate(*functional.split_scores(scores)))


@pytest.mark.parametrize("name", ["dv", "mine", "info_nce"])
@given(SEEDS, st.floats(-1e3, 1e3))
def test_a_constant_added_to_the_critic_changes_nothing(name: str, seed: int, shift: float) -> None:
    joint, marginal = functional.split_scores(matrix(seed))
    torch.testing.assert_close(
        ESTIMATES[name](joint + shift, marginal + shift), ESTIMATES[name](joint, marginal)
    )


@given(SEEDS, st.floats(-5.0, 5.0))
def test_smile_ignores_a_constant_only_while_nothing_is_clipped(seed: int, shift: float) -> None:
    joint, marginal = functional.split_scores(matrix(seed))
    clip = float(marginal.abs().max()) + abs(shift)
    torch.testing.assert_close(
        functional.smile(joint + shift, marginal + shift, clip),
        functional.smile(joint, marginal, clip),
    )
    beyond = functional.smile(joint + 20 * clip, marginal + 20 * clip, clip)
    torch.testing.assert_close(beyond, joint.mean() + 19 * clip)  # all others count as the clip


@given(SEEDS)
def test_an_exact_critic_reads_the_information_of_a_table(seed: int) -> None:
    x, y, share, ratio = table(seed)
    joint, marginal = ratio[x, y], ratio[x][:, y]  # all pairs: the product of the marginals
    expected = functional.mutual_information(share)
    product = share.sum(1, keepdim=True) * share.sum(0)
    divergence = jensenshannon(share.flatten(), product.flatten()) ** 2
    torch.testing.assert_close(functional.donsker_varadhan(joint + 7, marginal + 7), expected)
    torch.testing.assert_close(functional.nwj(joint + 1, marginal + 1), expected)
    torch.testing.assert_close(js_information(joint, marginal), expected)
    torch.testing.assert_close(functional.smile(joint, marginal, 20.0), expected)
    assert float(functional.jensen_shannon(joint, marginal)) == pytest.approx(divergence)


@pytest.mark.parametrize(("name", "shift"), [("dv", 3.0), ("mine", 3.0), ("nwj", 1.0), ("js", 0.0)])
@given(SEEDS)
def test_the_log_ratio_is_where_the_gradient_vanishes(name: str, shift: float, seed: int) -> None:
    x, y, _, ratio = table(seed)
    critic = (ratio + shift).requires_grad_()
    ESTIMATES[name](critic[x, y], critic[x][:, y]).backward()
    torch.testing.assert_close(critic.grad, torch.zeros_like(ratio), atol=1e-12, rtol=0)
    away = ratio + shift + matrix(seed, 4)[:3]
    assert ESTIMATES[name](away[x, y], away[x][:, y]) <= ESTIMATES[name](
        critic[x, y], critic[x][:, y]
    )


def test_pairs_that_never_occur_may_score_minus_infinity() -> None:
    codes = torch.arange(12) % 4
    ratio = torch.full((4, 4), -torch.inf, dtype=torch.float64).fill_diagonal_(math.log(4))
    joint, marginal = ratio[codes, codes], ratio[codes][:, codes]
    for estimate in (functional.donsker_varadhan, js_information):
        assert float(estimate(joint, marginal)) == pytest.approx(math.log(4))


def test_an_exact_critic_finds_the_information_of_two_gaussians() -> None:
    rho, size = 0.75, 2000
    x, noise = torch.randn(2, size, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    truth = -0.5 * math.log(1 - rho**2)
    rows, columns = x[:, None], y[None, :]
    quadratic = rho**2 * (rows**2 + columns**2) - 2 * rho * rows * columns
    ratio = truth - quadratic / (2 * (1 - rho**2))
    joint, marginal = functional.split_scores(ratio)
    error = 3 * float(joint.std()) / math.sqrt(size)  # the sample of pairs itself
    for name, shift in [("dv", 0), ("mine", 0), ("nwj", 1), ("js_information", 0), ("info_nce", 0)]:
        found = ESTIMATES[name](joint + shift, marginal + shift)
        assert float(found) == pytest.approx(truth, abs=error), name


@given(SEEDS, st.floats(-2.0, 2.0))
def test_mine_is_donsker_varadhan_with_another_denominator(seed: int, log_average: float) -> None:
    joint, marginal = (part.clone() for part in functional.split_scores(matrix(seed, scale=1.0)))
    joint.requires_grad_()
    marginal.requires_grad_()
    value, average = functional.mine(joint, marginal, torch.tensor(log_average), rate=0.25)
    assert value == functional.donsker_varadhan(joint, marginal)
    mixed = 0.75 * math.exp(log_average) + 0.25 * marginal.detach().exp().mean()
    torch.testing.assert_close(average.double(), mixed.log())
    value.backward()
    torch.testing.assert_close(joint.grad, torch.full_like(joint, 1 / 8))
    torch.testing.assert_close(marginal.grad, -marginal.detach().exp() / 56 / mixed)


@given(SEEDS, st.sampled_from(["first", "rate 1", "equal"]))
def test_mine_has_the_gradient_of_donsker_varadhan_at_the_batch_s_own_mean(
    seed: int, case: str
) -> None:
    scores = matrix(seed).requires_grad_()
    joint, marginal = functional.split_scores(scores)
    mean = functional.log_mean_exp(marginal.detach())
    average = {"first": None, "rate 1": mean + 3, "equal": mean}[case]
    value, _ = functional.mine(joint, marginal, average, 1.0 if case == "rate 1" else 0.01)
    ours = torch.autograd.grad(value, scores)[0]
    theirs = torch.autograd.grad(
        functional.donsker_varadhan(*functional.split_scores(scores)), scores
    )[0]
    torch.testing.assert_close(ours, theirs)


@each_estimate
@given(SEEDS)
def test_float32_agrees_with_float64(estimate: Estimate, seed: int) -> None:
    scores = matrix(seed)
    single = estimate(*functional.split_scores(scores.float()))
    assert single.dtype == torch.float32
    double = estimate(*functional.split_scores(scores))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["dv", "smile", "js", "mine", "info_nce"])
@given(SEEDS)
def test_extreme_scores_stay_finite(name: str, dtype: torch.dtype, seed: int) -> None:
    scores = (1e4 * matrix(seed).sign()).to(dtype).requires_grad_()
    found = ESTIMATES[name](*functional.split_scores(scores))
    found.backward()
    assert torch.isfinite(found)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_mine_stays_finite_when_scores_jump() -> None:
    marginal = torch.tensor([1e4, 0.0], requires_grad=True)
    value, average = functional.mine(torch.zeros(2), marginal, torch.tensor(0.0))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(average)
    torch.testing.assert_close(marginal.grad, torch.tensor([-100.0, 0.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("dtype", "safe"), [(torch.float32, 88.0), (torch.float64, 700.0)])
def test_nwj_is_minus_infinity_where_its_exponential_is_no_number(
    dtype: torch.dtype, safe: float
) -> None:
    joint = torch.zeros(3, dtype=dtype)
    assert float(functional.nwj(joint, joint - 1e4)) == 0.0
    assert math.isfinite(float(functional.nwj(joint, joint + safe)))
    assert float(functional.nwj(joint, joint + 1e4)) == -math.inf
