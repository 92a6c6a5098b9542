"""Projections and minima of categorical values: what they keep, and what a naive one loses."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modereg.functional import categorical_mean, lower_categorical, project_categorical

SEEDS = st.integers(0, 10_000)


def _probs(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).softmax(-1)


@given(SEEDS, st.floats(-3, 3), st.floats(0, 1), st.integers(2, 30))
def test_a_projection_sums_to_one_and_equals_a_loop(
    seed: int, reward: float, discount: float, number: int
) -> None:
    atoms = torch.linspace(-1.0, 2.0, number, dtype=torch.float64)
    probs = _probs(seed, number)
    places = reward + discount * atoms
    found = project_categorical(probs, places, atoms)
    expected, spacing = np.zeros(number), 3.0 / (number - 1)
    for p, place in zip(probs.tolist(), places.tolist()):
        at = (min(max(place, -1.0), 2.0) + 1.0) / spacing
        low = min(int(at), number - 2)
        expected[low] += p * (low + 1 - at)
        expected[low + 1] += p * (at - low)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert abs(float(found.sum()) - 1.0) < 1e-9


@given(SEEDS, st.floats(-0.5, 0.5), st.floats(0, 0.5))
def test_a_projection_within_the_support_keeps_the_mean(
    seed: int, reward: float, discount: float
) -> None:
    atoms = torch.linspace(-1.0, 1.0, 11, dtype=torch.float64)
    probs = _probs(seed, 4, 11)
    mean = reward + discount * categorical_mean(probs, atoms)
    found = project_categorical(probs, reward + discount * atoms.expand(4, -1), atoms)
    torch.testing.assert_close(categorical_mean(found, atoms), mean)


def test_mass_beyond_the_support_goes_to_its_end() -> None:
    atoms = torch.tensor([0.0, 1.0, 2.0])
    found = project_categorical(torch.tensor([0.5, 0.5]), torch.tensor([-4.0, 10.0]), atoms)
    assert found.tolist() == [0.5, 0.0, 0.5]


@given(SEEDS)
def test_the_lower_is_one_of_the_two_and_no_mixture(seed: int) -> None:
    atoms, probs = torch.linspace(0.0, 1.0, 9, dtype=torch.float64), _probs(seed, 2, 6, 9)
    found, means = lower_categorical(probs, atoms), categorical_mean(probs, atoms)
    for row in range(6):
        assert torch.equal(found[row], probs[int(means[1, row] < means[0, row]), row])
    torch.testing.assert_close(found.sum(-1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(categorical_mean(found, atoms), means.amin(0))


def test_the_minimum_atom_by_atom_is_no_distribution() -> None:
    atoms = torch.linspace(0.0, 1.0, 5)
    probs = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.5, 0.5]])
    assert float(probs.amin(0).sum()) == 0.0
    assert float(lower_categorical(probs, atoms).sum()) == 1.0
