"""Directions of codes, steps, and the constraint with its dual variable."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg import functional

SEEDS = st.integers(0, 10_000)


@given(st.integers(2, 24))
def test_uniform_codes_are_the_paper_s(codes: int) -> None:
    uniform = torch.full((codes,), 1 / codes, dtype=torch.float64)
    directions = functional.centred_codes(torch.eye(codes).double(), uniform)
    torch.testing.assert_close(directions.diagonal(), torch.ones(codes).double())
    off = directions[~torch.eye(codes, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, -1 / (codes - 1)))
    length = math.sqrt(codes / (codes - 1))
    torch.testing.assert_close(directions.norm(dim=-1), torch.full_like(uniform, length))


@given(SEEDS, st.integers(2, 9))
def test_codes_are_zero_on_average(seed: int, codes: int) -> None:
    probs = torch.rand(codes, generator=torch.Generator().manual_seed(seed)).double() + 0.01
    probs = probs / probs.sum()
    directions = functional.centred_codes(torch.eye(codes).double(), probs)
    torch.testing.assert_close(probs @ directions, torch.zeros(codes).double())
    sums = directions.sum(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums))


def test_directions_of_any_batch_have_the_dtype_of_the_codes() -> None:
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    table = functional.centred_codes(torch.eye(3), probs)
    assert table.dtype == torch.float32
    for latent in (
        torch.tensor(2),
        torch.tensor([1, 0]),
        torch.tensor([[0, 1, 1, 2], [2, 2, 0, 1]]),
    ):
        directions = functional.centred_codes(torch.eye(3)[latent], probs)
        torch.testing.assert_close(directions, table[latent])


def test_a_single_code_has_no_direction() -> None:
    assert functional.centred_codes(torch.ones(3, 1), torch.ones(1)).tolist() == [[0.0]] * 3


@given(SEEDS)
def test_a_step_is_a_difference_of_potentials(seed: int) -> None:
    before, after, code = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(seed))
    step = functional.directed_step(before, after, code)
    torch.testing.assert_close(step, (after * code).sum(-1) - (before * code).sum(-1))
    longest = (after - before).norm(dim=-1) * code.norm(dim=-1)
    assert (step <= longest + 1e-5).all(), "Cauchy and Schwarz"
    constant = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    moved = functional.directed_step(before + constant, after + constant, code)
    torch.testing.assert_close(moved, step, atol=1e-5, rtol=1e-5)


@given(SEEDS, st.floats(1e-6, 1.0))
def test_the_slack_is_capped_and_its_sign_says_who_is_too_long(seed: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.randn(2, 50, 3, generator=generator).double()
    allowed = 4 * torch.rand(50, generator=generator).double()
    slack = functional.constraint_slack(before, after, allowed, tolerance)
    left = allowed - (after - before).norm(dim=-1).square()
    assert (slack <= tolerance).all()
    assert torch.equal(slack < 0, left < 0)
    torch.testing.assert_close(slack[left < tolerance], left[left < tolerance])


def test_slacks_of_any_batch() -> None:
    before, after = torch.randn(2, 4, 2, 3)
    slack = functional.constraint_slack(before, after, torch.ones(4, 2), 0.5)
    flat = functional.constraint_slack(
        before.flatten(0, 1), after.flatten(0, 1), torch.ones(8), 0.5
    )
    torch.testing.assert_close(slack.flatten(), flat)


def test_steps_that_are_short_enough_get_no_gradient_from_the_constraint() -> None:
    after = torch.tensor([[0.5, 0.0], [2.0, 0.0]], requires_grad=True)
    slack = functional.constraint_slack(torch.zeros(2, 2), after, torch.ones(2), 1e-3)
    torch.testing.assert_close(slack, torch.tensor([1e-3, -3.0]))
    slack.sum().backward()
    assert after.grad.tolist() == [[0.0, 0.0], [-4.0, 0.0]]


@given(st.floats(-3.0, 3.0), st.floats(-10.0, 0.5), st.floats(-5.0, 5.0))
def test_gradients_of_the_dual_loss(objective: float, slack: float, log_dual: float) -> None:
    parts = [torch.tensor(x, dtype=torch.float64) for x in (objective, slack, log_dual)]
    for part in parts:
        part.requires_grad_()
    functional.dual_loss(*parts).backward()
    assert parts[0].grad == -1
    torch.testing.assert_close(parts[1].grad, -parts[2].detach().exp())
    torch.testing.assert_close(parts[2].grad, parts[1].detach())


@pytest.mark.parametrize(("log_dual", "read_as"), [(19.9, 19.9), (20.0, 20.0), (25.0, 20.0)])
def test_the_dual_variable_is_read_as_at_most_e_to_the_20(log_dual: float, read_as: float) -> None:
    slack = torch.ones((), dtype=torch.float64, requires_grad=True)
    functional.dual_loss(torch.zeros(()), slack, torch.tensor(log_dual)).backward()
    assert float(slack.grad) == pytest.approx(-math.exp(read_as), rel=1e-5)


@pytest.mark.parametrize(("slack", "rises"), [(-0.5, True), (1e-3, False)])
def test_descent_moves_the_dual_variable_the_right_way(slack: float, rises: bool) -> None:
    log_dual = torch.zeros((), requires_grad=True)
    functional.dual_loss(torch.zeros(8), torch.full((8,), slack), log_dual).mean().backward()
    assert bool(log_dual.detach() - 0.1 * log_dual.grad > 0) == rises


@pytest.mark.parametrize("log_dual", [-1e4, -100.0, 100.0, 1e4])
def test_no_dual_variable_makes_the_loss_infinite(log_dual: float) -> None:
    value = torch.tensor(log_dual, requires_grad=True)
    phi = torch.full((3, 2), 2.0, requires_grad=True)
    slack = functional.constraint_slack(torch.zeros(3, 2), phi, torch.ones(3), 1e-3)
    loss = functional.dual_loss(torch.ones(3), slack, value)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(phi.grad).all()
    assert torch.isfinite(value.grad)


def test_the_optimum_under_the_constraint() -> None:
    """A free step that maximises J under the constraint points along the code and has length 1."""
    code = torch.tensor([[0.6, -0.8]])
    step = torch.tensor([[0.1, 0.1]], requires_grad=True)
    log_dual = torch.tensor(math.log(30.0), requires_grad=True)
    optimizer = torch.optim.Adam([step, log_dual], 0.02)
    for _ in range(600):
        objective = functional.directed_step(torch.zeros(1, 2), step, code)
        slack = functional.constraint_slack(torch.zeros(1, 2), step, torch.ones(1), 1e-3)
        optimizer.zero_grad()
        functional.dual_loss(objective, slack, log_dual).sum().backward()
        optimizer.step()
    torch.testing.assert_close(step.detach(), code, atol=0.05, rtol=0)
