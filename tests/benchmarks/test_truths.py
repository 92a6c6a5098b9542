"""The benchmark's truths against integrals, entropies of scipy and published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from benchmarks.support import truths
from modereg import functional

TASKS = [
    "channel-2-0.1",
    "channel-16-0.3",
    "gao-4",
    "gaussian-3x3-0.5",
    "lognormal-0.75",
    "student-2x2-0.5-3",
    "uniform-0.1",
    "uniform-0.75",
    "sphere-4",
]


@pytest.mark.parametrize("name", TASKS)
def test_a_name_makes_its_task_and_draws_are_repeatable(name: str) -> None:
    task = truths.find_task(name)
    assert task.name == name
    first, again = task.draw(50, 3), task.draw(50, 3)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], task.draw(50, 4)[1])
    for part, dim in zip(first, task.dims):
        assert part.shape == ((50, dim) if dim else (50,))


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("gao-2", 0.3466),
        ("gao-4", 0.8664),
        ("gao-8", 1.4729),
        ("gao-16", 2.1228),
        ("gao-24", 2.5138),
        ("gaussian-1x1-0.75", 0.4133),
        ("gaussian-2x2-0.5", 0.2939),
        ("gaussian-3x3-0.5", 0.4133),
        ("gaussian-5x5-0.5", 0.5928),
        ("uniform-0.1", 1.7094),
        ("uniform-0.75", 0.3333),
    ],
)
def test_published_truths(name: str, truth: float) -> None:
    assert truths.find_task(name).truth == pytest.approx(truth, abs=5e-5)


@pytest.mark.parametrize("name", ["channel-2-0.1", "channel-16-0.3", "gao-2", "gao-24"])
def test_truths_of_codes_are_those_of_their_posteriors(name: str) -> None:
    task = truths.find_task(name)
    states, weights = task.states
    assert float(weights.sum()) == pytest.approx(1)
    table = weights[:, None] * task.posterior(states)
    torch.testing.assert_close(table.sum(0), torch.full_like(table[0], 1 / task.num_codes))
    assert float(functional.mutual_information(table)) == pytest.approx(task.truth, abs=1e-9)


@pytest.mark.parametrize("name", ["channel-4-0.3", "gao-4"])
def test_draws_of_codes_follow_their_posteriors(name: str) -> None:
    task = truths.find_task(name)
    latent, state = task.draw(40_000, 0)
    posterior = task.posterior(state)
    assert (posterior.gather(-1, latent[:, None]) > 0).all()
    share = torch.zeros(4, 4).double().index_add_(0, latent, posterior) / len(latent)
    cell = state if name.startswith("channel") else state[:, 0].long()
    for value in cell.unique():
        found = torch.bincount(latent[cell == value], minlength=4) / (cell == value).sum()
        assert torch.allclose(found.double(), posterior[cell == value][0], atol=0.03)
    torch.testing.assert_close(share.sum(1), torch.full((4,), 0.25).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("dim", [1, 3, 25])
def test_gaussian_truths_are_entropies(dim: int) -> None:
    def entropy(size: int) -> float:
        return stats.multivariate_normal(cov=truths.equicorrelated(size, 0.5).numpy()).entropy()

    expected = 2 * entropy(dim) - entropy(2 * dim)
    assert truths.gaussian(dim, 0.5).truth == pytest.approx(expected)


@pytest.mark.parametrize(("dim", "rho", "freedom"), [(1, 0.0, 1), (1, 0.75, 2), (2, 0.5, 3)])
def test_student_truths_are_entropies(dim: int, rho: float, freedom: int) -> None:
    def entropy(size: int) -> float:
        shape = truths.equicorrelated(size, rho).numpy()
        return float(stats.multivariate_t(shape=shape, df=freedom).entropy())

    expected = 2 * entropy(dim) - entropy(2 * dim)
    assert truths.student(dim, rho, freedom).truth == pytest.approx(expected)


def test_draws_of_student_tasks_have_its_marginals() -> None:
    latent, state = truths.student(2, 0.5, 3).draw(5_000, 0)
    for column in torch.cat([latent, state], 1).T:
        assert stats.kstest(column.numpy(), stats.t(3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("eps", [0.1, 0.5, 0.75, 2.0])
def test_uniform_truths_are_integrals(eps: float) -> None:
    def density(state: float) -> float:
        return max(0.0, min(state + eps, 1.0) - max(state - eps, 0.0)) / (2 * eps)

    def term(state: float) -> float:
        value = density(state)
        return -value * math.log(value) if value else 0.0

    points = sorted({eps, 1 - eps})
    entropy, _ = integrate.quad(term, -eps, 1 + eps, points=points)
    assert truths.uniform(eps).truth == pytest.approx(entropy - math.log(2 * eps), abs=1e-7)


@pytest.mark.parametrize("kappa", [0.5, 4.0, 100.0])
def test_sphere_truths_and_draws_are_those_of_scipy(kappa: float) -> None:
    task = truths.sphere(kappa)
    north = stats.vonmises_fisher(np.array([0.0, 0.0, 1.0]), kappa)
    assert task.truth == pytest.approx(math.log(4 * math.pi) - float(north.entropy()))
    latent, state = task.draw(5_000, 0)
    for vectors in (latent, state):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(5_000).double())
        assert stats.kstest(vectors[:, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    cosine = (latent * state).sum(-1).numpy()
    theirs = north.rvs(5_000, random_state=np.random.default_rng(0))[:, 2]
    assert stats.ks_2samp(cosine, theirs).pvalue > 1e-3


@pytest.mark.parametrize("name", ["gaussian-3x3-0.5", "lognormal-0.75", "uniform-0.1"])
def test_continuous_codes_can_be_made_standard_normal(name: str) -> None:
    task = truths.find_task(name)
    mapped = task.to_prior(task.draw(20_000, 0)[0])
    torch.testing.assert_close(
        mapped.T.cov().reshape(len(mapped.T), -1),
        torch.eye(len(mapped.T)).double(),
        atol=0.04,
        rtol=0,
    )
    for column in mapped.T:
        assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-3
