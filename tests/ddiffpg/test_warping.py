from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from modereg.ddiffpg.warping import WarpedDistances, warped_distances
from modereg.errors import ConfigurationError, MissingDependencyError, NonFiniteError
from tests.ddiffpg.bundles import four_ways, one_way


def _by_hand(x: Tensor, y: Tensor) -> float:
    """Sakoe and Chiba's recursion, cell by cell."""
    best = np.full((len(x) + 1, len(y) + 1), np.inf)
    best[0, 0] = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            step = min(best[i, j], best[i, j + 1], best[i + 1, j])
            best[i + 1, j + 1] = step + float((x[i] - y[j]).square().sum())
    return (best[-1, -1] / max(len(x), len(y))) ** 0.5


def test_distances_equal_the_recursion() -> None:
    paths = [*four_ways(6, 0)[0], torch.randn(1, 2)]
    found = warped_distances(paths[:4], paths)
    expected = [[_by_hand(x.double(), y.double()) for y in paths] for x in paths[:4]]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_speed_does_not_count() -> None:
    slow = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert float(warped_distances([slow], [slow[[0, 2, 4]]])) == 0.0


def test_distances_of_what_stays_are_not_computed_again_and_what_leaves_is_forgotten() -> None:
    paths = one_way(12, 0)
    kept = WarpedDistances(capacity=8)
    first = kept.of(range(8), paths[:8])
    torch.testing.assert_close(first, warped_distances(paths[:8], paths[:8]))
    assert kept.computed == 8 * 7 // 2
    order = [10, 3, 5, 11, 7, 6]
    found = kept.of(order, [paths[number] for number in order])
    both = [paths[number] for number in order]
    torch.testing.assert_close(found, warped_distances(both, both))
    assert kept.computed == 28 + 4 + 5, "two new paths beside four and each other"
    kept.of(range(2), paths[:2])
    assert kept.computed == 37 + 1, "those that left are computed anew"


@pytest.mark.parametrize("numbers", [range(3), [1, 1]])
def test_too_many_paths_and_double_numbers_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="expected at most 2 paths"):
        WarpedDistances(2).of(list(numbers), one_way(len(numbers), 0))


def test_bad_paths_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="finite paths"):
        warped_distances([torch.full((2, 2), torch.nan)], [torch.zeros(2, 2)])
    with pytest.raises(ConfigurationError, match=r"paths \[T, d\]"):
        warped_distances([torch.zeros(0, 2)], [torch.zeros(2, 2)])
    with pytest.raises(ConfigurationError, match="room for at least 1"):
        WarpedDistances(0)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dtaidistance"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dtaidistance", None)
    with pytest.raises(MissingDependencyError, match=r"pip install modereg\[dtw\]"):
        warped_distances([torch.zeros(1, 1)], [torch.zeros(1, 1)])
