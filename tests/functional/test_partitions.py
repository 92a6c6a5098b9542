"""Entropies and agreement of partitions against scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy as scipy_entropy
from sklearn import metrics as sk
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from modereg import functional

SEEDS = st.integers(0, 10_000)
COUNTS = hnp.arrays(np.int64, st.integers(2, 9), elements=st.integers(0, 50)).filter(
    lambda counts: counts.sum() > 0
)


def joint(seed: int, states: int = 6, codes: int = 4) -> torch.Tensor:
    """Return a random joint distribution p(s, z), ``[S, K]``."""
    table = torch.rand(states, codes, generator=torch.Generator().manual_seed(seed)).double()
    table = table.pow(4) + 1e-6
    return table / table.sum()


@given(COUNTS)
def test_entropies(counts: np.ndarray) -> None:
    weights, modes = torch.from_numpy(counts), len(counts)
    expected = float(scipy_entropy(counts))
    assert float(functional.entropy(weights)) == pytest.approx(expected, abs=1e-12)
    assert float(functional.normalized_entropy(weights, modes)) == pytest.approx(
        expected / math.log(modes), abs=1e-12
    )
    assert 0 <= functional.normalized_entropy(weights, modes) <= 1 + 1e-12


def test_entropy_of_one_mode_has_no_sign() -> None:
    for counts in (torch.tensor([7, 0]), torch.zeros(4)):
        assert f"{float(functional.entropy(counts)):.3f}" == "0.000"
        assert f"{float(functional.normalized_entropy(counts, len(counts))):.3f}" == "0.000"


def test_entropy_at_the_edges() -> None:
    assert float(functional.entropy(torch.zeros(4))) == 0.0
    assert float(functional.normalized_entropy(torch.tensor([7]), 1)) == 0.0
    certain = float(functional.entropy(torch.tensor([3, 0])))
    assert math.copysign(1.0, certain) == 1.0
    batched = functional.entropy(torch.tensor([[3, 3], [2, 0]]))
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


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), SEEDS)
def test_no_rounding_lifts_the_agreement_of_renamed_partitions_above_one(
    sizes: list[int], seed: int
) -> None:
    names = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    table = torch.tensor(sizes).diag()[:, names]
    agreement = functional.normalized_mutual_information(table)
    assert agreement <= 1
    assert float(agreement) == pytest.approx(1.0)


@pytest.mark.parametrize("table", [[[98, 1], [1, 0]], [[95, 1], [2, 2]], [[60, 40], [0, 0]]])
def test_agreement_of_partitions_with_little_entropy(table: list[list[int]]) -> None:
    counts = np.array(table)
    x, y = np.divmod(np.repeat(np.arange(4), counts.ravel()), 2)
    found = functional.normalized_mutual_information(torch.from_numpy(counts))
    assert float(found) == pytest.approx(sk.normalized_mutual_info_score(x, y), abs=1e-9)


@given(SEEDS)
def test_information_beyond_chance_as_scikit_learn_has_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, [[5], [7]], (2, 40))
    table = functional.contingency(torch.from_numpy(x), torch.from_numpy(y), 5, 7)
    expected = expected_mutual_information(contingency_matrix(x, y, sparse=True), 40)
    assert float(functional.expected_information(table)) == pytest.approx(expected)
    agreement = max(sk.adjusted_mutual_info_score(x, y), 0.0)
    assert float(functional.adjusted_mutual_information(table)) == pytest.approx(
        agreement, abs=1e-7
    )
    found = float(functional.adjusted_information(table))
    assert 0.0 <= found <= float(functional.entropy(table.sum(-1)))


def test_information_beyond_chance_at_the_edges() -> None:
    perfect, once = 3 * torch.eye(4), torch.eye(4)
    assert float(functional.adjusted_information(perfect)) == pytest.approx(math.log(4))
    assert float(functional.adjusted_information(once)) == 0.0
    assert float(functional.adjusted_information(torch.tensor([[5, 0], [0, 0]]))) == 0.0
    assert float(functional.adjusted_mutual_information(perfect[:1])) == 0.0


@given(SEEDS)
def test_tables_may_come_in_batches(seed: int) -> None:
    tables = torch.stack([joint(seed + index) for index in range(4)])
    for figure in (functional.mutual_information, functional.normalized_mutual_information):
        one_by_one = torch.stack([figure(table) for table in tables])
        torch.testing.assert_close(figure(tables.view(2, 2, 6, 4)).flatten(), one_by_one)
