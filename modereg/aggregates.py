"""Figures over runs and over a run: interquartile means, their intervals, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import bootstrap, trim_mean

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.metrics import FEWEST_RUNS

__all__ = ["area_under_curve", "interquartile_interval", "interquartile_mean"]

Figures = Sequence[float] | Sequence[Sequence[float]] | np.ndarray


def interquartile_mean(values: Figures) -> float:
    """Return the mean of the middle half of all values, IQM.

    As in rliable (Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
    Precipice, arXiv 2108.13264, Sec. 4.3): a quarter of the runs of all tasks together, rounded
    down, is left out at either end.

    Args:
        values: a figure of each run, ``[n]``, or of each run on each of M tasks, ``[n, M]``.

    Raises:
        ShapeError: if there is none, or the shape is another one.
        NonFiniteError: if one is not finite.
    """
    return float(trim_mean(_figures(values), 0.25, axis=None))


def interquartile_interval(
    values: Figures, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of :func:`interquartile_mean`.

    As in rliable (arXiv 2108.13264, Sec. 4.1) runs are drawn with replacement within each task.

    Args:
        values: as there.
        confidence: coverage of the interval, which is only about right with few runs.
        resamples: draws.
        seed: of the draws; global generators are left alone.

    Returns:
        Its ends; None for fewer than five runs, of which the points themselves say more.

    Raises:
        ShapeError: as there.
        NonFiniteError: as there.
        ConfigurationError: if confidence is not in (0, 1), or there is no draw.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigurationError(
            f"expected confidence in (0, 1) and at least one draw, got {confidence} and {resamples}"
        )
    tasks = _figures(values)
    if len(tasks) < FEWEST_RUNS:
        return None
    found = bootstrap(
        tuple(tasks.T),
        lambda *drawn, axis: trim_mean(np.concatenate(drawn, axis), 0.25, axis),
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def area_under_curve(at: Sequence[float], values: Sequence[float], *, until: float) -> float:
    r"""Return the mean height of a learning curve, :math:`\frac{1}{b - a} \int_a^b v \, dx`.

    Between points the curve is straight, and after the last one it stays as it is, so runs of
    different length compare: a figure that is 1 from the start gives 1.

    Args:
        at: where it was judged, rising: environment steps, or seconds; the first is a.
        values: what was found there, such as success.
        until: b, beyond a; what comes after it does not count.

    Raises:
        ShapeError: if they are not as many of each, at least one.
        NonFiniteError: if one is not finite.
        ConfigurationError: if ``at`` falls, or ``until`` is not beyond its first.
    """
    if len(at) != len(values) or not len(at):
        raise ShapeError(f"expected as many places as values, got {len(at)} and {len(values)}")
    places, heights = np.asarray(at, dtype=float), np.asarray(values, dtype=float)
    if not np.isfinite([*places, *heights, until]).all():
        raise NonFiniteError("expected a finite curve, got NaN or infinities; drop those points")
    if not places[0] < until or (np.diff(places) < 0).any():
        raise ConfigurationError(
            f"expected rising places, the first before until={until}, got {places.tolist()}"
        )
    inside = places < until
    ends = np.append(places[inside], until), np.append(heights[inside], 0.0)
    before = slice(int(inside.sum()) + 1)  # of a jump at the end only what it rises from
    ends[1][-1] = np.interp(until, places[before], heights[before])
    return float(trapezoid(ends[1], ends[0]) / (until - places[0]))


def _figures(values: Figures) -> np.ndarray:
    """Return values as ``[n, M]``."""
    found = np.asarray(values, dtype=float)
    if found.ndim not in (1, 2) or not found.size:
        raise ShapeError(f"expected values [n] or [n, M], got shape {found.shape}")
    if not np.isfinite(found).all():
        raise NonFiniteError("expected finite values, got NaN or infinities; drop those runs")
    return found.reshape(len(found), -1)
