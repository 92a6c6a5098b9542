from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.ddiffpg.matching import match_clusters
from modereg.errors import ShapeError


@given(st.integers(0, 1000), st.permutations(range(4)))
def test_renamed_clusters_are_found_again(seed: int, names: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    old = torch.cat([torch.arange(4), torch.randint(0, 4, (40,), generator=generator)])
    matching = match_clusters(old, torch.tensor(names)[old], 4)
    assert matching.kept[names].tolist() == matching.origin[names].tolist() == [0, 1, 2, 3]


def test_of_two_parts_the_larger_stays_and_the_other_has_an_origin() -> None:
    old = torch.tensor([0] * 10 + [1] * 4)
    new = torch.tensor([1] * 3 + [2] * 7 + [0] * 4)
    matching = match_clusters(old, new, 2)
    assert matching.kept.tolist() == [1, -1, 0]
    assert matching.origin.tolist() == [1, 0, 0]


def test_two_that_became_one_keep_the_larger_ones_name() -> None:
    matching = match_clusters(torch.tensor([0] * 3 + [1] * 8), torch.zeros(11).long(), 2)
    assert matching.kept.tolist() == [1]


def test_what_is_new_comes_from_nowhere() -> None:
    old = torch.tensor([0] * 5 + [-1] * 5)
    matching = match_clusters(old, torch.tensor([0] * 5 + [1] * 5), 1)
    assert (matching.kept.tolist(), matching.origin.tolist()) == ([0, -1], [0, -1])
    first = match_clusters(torch.full((4,), -1), torch.tensor([0, 1, 1, 0]), 0)
    assert first.kept.tolist() == first.origin.tolist() == [-1, -1]


def test_the_best_assignment_counts_and_not_the_first_that_fits() -> None:
    """New 0 is most like old 0, but so is new 1, which is like nothing else."""
    old = torch.tensor([0] * 6 + [0] * 6 + [1] * 5)
    new = torch.tensor([0] * 6 + [1] * 6 + [0] * 5)
    assert match_clusters(old, new, 2).kept.tolist() == [1, 0]


def test_labels_of_other_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="two labels"):
        match_clusters(torch.zeros(2).long(), torch.zeros(3).long(), 1)
