from __future__ import annotations

import numpy as np
import pytest
import torch

from modereg.paths import Paths
from modereg.report.projections import describe, project, views_of


def paths(positions: torch.Tensor, lengths: list[int] | None = None) -> Paths:
    number, slots = positions.shape[:2]
    ends = torch.tensor(lengths or [slots - 1] * number)
    return Paths(positions, ends, torch.zeros(number, dtype=torch.int64))


def test_a_dimension_alone_is_drawn_over_time() -> None:
    given = paths(torch.arange(12.0).view(2, 6, 1))
    (view,) = views_of(("speed",), [given])
    assert view.labels == ("environment step", "speed")
    places = project(view, given.positions)
    assert places[1].tolist() == [[step, 6.0 + step] for step in range(6)]


def test_a_plane_is_drawn_as_it_is() -> None:
    given = paths(torch.randn(3, 5, 2))
    (view,) = views_of(None, [given])
    assert view.labels == ("feature 1", "feature 2")
    assert not view.equal
    np.testing.assert_array_equal(project(view, given.positions), given.positions)
    assert describe([view], 2) == ""


@pytest.mark.parametrize("wide", ["x", "y"])
def test_named_places_are_seen_from_above_and_from_the_side(wide: str) -> None:
    names = ("angle", "z", "y", "x")
    positions = torch.randn(4, 9, 4)
    positions[..., names.index(wide)] *= 5
    above, side = views_of(names, [paths(positions)])
    assert (above.name, above.labels) == ("from above", ("x", "y"))
    assert (side.name, side.labels) == ("from the side", (wide, "z"))
    np.testing.assert_allclose(project(above, positions), positions[..., [3, 2]])
    np.testing.assert_allclose(project(side, positions), positions[..., [names.index(wide), 1]])
    assert "below: seen from the side" in describe([above, side], 4)


def test_principal_components_explain_what_they_say() -> None:
    """Of known variances, turned; what is repeated after the end of an episode does not count."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([4.0, 2.0, 1.0, 0.5])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    positions = (torch.randn(400, 26, 4, generator=generator) * spread) @ turn + 3
    positions[:, 21:] = 100.0
    (view,) = views_of(None, [paths(positions, [20] * 400)])
    whole = float((spread**2).sum())
    assert view.shares[0] == pytest.approx(16 / whole, abs=0.02)
    assert view.shares[1] == pytest.approx(4 / whole, abs=0.02)
    np.testing.assert_allclose(view.matrix.T @ view.matrix, np.eye(2), atol=1e-6)  # type: ignore[union-attr]
    places = project(view, positions[:, :21]).reshape(-1, 2)
    np.testing.assert_allclose(places.std(0), [4, 2], rtol=0.05)
    assert "75\u00a0%" in view.labels[0] or "75 %" in view.labels[0]
    assert "explain 94\u00a0% of the variance" in describe([view], 4)


def test_all_methods_share_a_plane() -> None:
    one, other = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    one[..., 0], other[..., 1] = torch.randn(2, 3), 10 * torch.randn(2, 3)
    (view,) = views_of(None, [paths(one), paths(other)])
    assert abs(view.matrix[1, 0]) > 0.9  # type: ignore[index]
