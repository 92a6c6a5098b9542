"""How paths of any dimension are laid in the plane: by their names, or by principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modereg.paths import Paths

__all__ = ["View", "describe", "project", "views_of"]

SPATIAL = ("x", "y", "z")


@dataclass(frozen=True)
class View:
    """A plane that paths are drawn in.

    Attributes:
        name: what stands beside its row, such as ``from above``; empty where there is one alone.
        labels: of the two axes.
        matrix: ``[D, 2]``, what is multiplied with a position; None draws the only dimension
            against time.
        center: ``[D]``, what is taken off a position before.
        equal: whether both axes have one scale.
        shares: shares of the variance that the axes explain; empty where they are dimensions.
    """

    name: str
    labels: tuple[str, str]
    matrix: np.ndarray | None
    center: np.ndarray
    equal: bool = False
    shares: tuple[float, ...] = ()


def views_of(names: Sequence[str] | None, paths: Sequence[Paths]) -> list[View]:
    """Return the planes in which all these paths are drawn.

    One dimension is drawn against time, two as they are. With dimensions called x, y and z: from
    above, and from the side, against the one of x and y that varies more. Else the first two
    principal components of all positions, by a singular value decomposition.
    """
    positions = np.concatenate([_visited(each) for each in paths])
    width, center = positions.shape[1], np.zeros(positions.shape[1])
    names = tuple(names or (f"feature {index + 1}" for index in range(width)))
    if width == 1:
        return [View("", ("environment step", names[0]), None, center)]
    if set(SPATIAL) <= set(names):
        x, y, z = (names.index(name) for name in SPATIAL)
        across = x if positions[:, x].std() >= positions[:, y].std() else y
        planes = {"from above": (x, y), "from the side": (across, z)}
        return [_plane(name, names, pair, True) for name, pair in planes.items()]
    if width == 2:
        return [_plane("", names, (0, 1), {*names} <= {*SPATIAL})]
    return [_principal(positions)]


def _visited(paths: Paths) -> np.ndarray:
    """Return all positions ``[n, D]`` but what is repeated after the end."""
    slots = np.arange(paths.positions.shape[1])
    return paths.positions.numpy()[slots <= paths.lengths.numpy()[:, None]]


def _plane(name: str, names: Sequence[str], pair: tuple[int, int], equal: bool) -> View:
    matrix = np.eye(len(names))[:, list(pair)]
    labels = (names[pair[0]], names[pair[1]])
    return View(name, labels, matrix, np.zeros(len(names)), equal)


def _principal(positions: np.ndarray) -> View:
    """Return the plane of most variance; signs are such that the largest weight is positive."""
    center = positions.mean(0)
    _, scales, rows = np.linalg.svd(positions - center, full_matrices=False)
    matrix = rows[:2].T
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(0), [0, 1]])
    first, second = (scales[:2] ** 2 / max((scales**2).sum(), 1e-12)).tolist()
    labels = (
        f"1st principal component, {100 * first:.0f} %",
        f"2nd principal component, {100 * second:.0f} %",
    )
    return View("", labels, matrix, center, True, (first, second))


def project(view: View, positions: Tensor) -> np.ndarray:
    """Return the places ``[N, T, 2]`` of positions ``[N, T, D]`` in a view."""
    values = positions.numpy()
    if view.matrix is None:
        steps = np.broadcast_to(np.arange(values.shape[1])[:, None], values.shape)
        return np.concatenate([steps, values], -1)
    return (values - view.center) @ view.matrix


def describe(views: Sequence[View], width: int) -> str:
    """Say in a sentence what was projected, and how much of it can be seen; empty for a plane."""
    shares = views[0].shares
    if shares:
        return (
            f" The {width} dimensions of the feature are shown by their first two principal "
            f"components, which explain {100 * sum(shares):.0f}\u00a0% of the variance of all "
            "positions."
        )
    if len(views) > 1:
        return " Above: seen from above; below: seen from the side."
    return ""
