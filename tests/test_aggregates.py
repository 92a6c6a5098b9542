from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from modereg.aggregates import area_under_curve, interquartile_interval, interquartile_mean
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError


def test_the_middle_half_of_all_runs_is_averaged() -> None:
    """Of 8 values 2 are left out at either end; of 5 one."""
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert interquartile_mean([9, 1, 2, 6, -50]) == 3.0
    assert interquartile_mean([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]]) == 3.5
    assert interquartile_mean([7.0]) == 7.0


def test_the_interval_is_that_of_resampled_runs() -> None:
    values = np.random.default_rng(1).normal(size=12)
    low, high = interquartile_interval(values, resamples=4000)
    rng = np.random.default_rng(2)
    drawn = [trim_mean(rng.choice(values, 12), 0.25) for _ in range(4000)]
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.06)
    assert low < interquartile_mean(values) < high
    assert interquartile_interval(values, resamples=4000) == (low, high)
    narrow = interquartile_interval(values, confidence=0.5, resamples=4000)
    assert low < narrow[0] < narrow[1] < high


def test_runs_are_drawn_within_each_task() -> None:
    """Runs of a task are alike, so that only drawing across tasks would spread."""
    values = np.tile([0.0, 1.0, 2.0, 3.0], (5, 1))
    assert interquartile_interval(values) == (1.5, 1.5)


def test_few_runs_have_no_interval() -> None:
    assert interquartile_interval([1.0, 2.0, 3.0, 4.0]) is None


def test_a_curve_is_averaged_as_far_as_asked() -> None:
    """From (0, 0) to (10, 1) and on at 1: 5 until 10, and 15 until 20."""
    assert area_under_curve([0, 10], [0, 1], until=10) == pytest.approx(0.5)
    assert area_under_curve([0, 10], [0, 1], until=20) == pytest.approx(0.75)
    assert area_under_curve([0, 10], [0, 1], until=5) == pytest.approx(0.25)
    assert area_under_curve([5, 10, 30], [1, 1, 0], until=10) == pytest.approx(1.0)
    assert area_under_curve([3], [0.7], until=4) == pytest.approx(0.7)
    jump = [0, 5, 5, 10], [0, 0, 1, 1]
    assert area_under_curve(*jump, until=10) == pytest.approx(0.5)
    assert area_under_curve(*jump, until=5) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: interquartile_mean([]), ShapeError, r"expected values \[n\] or \[n, M\]"),
        (lambda: interquartile_mean([np.nan]), NonFiniteError, "expected finite values"),
        (
            lambda: interquartile_interval([1.0], confidence=1.0),
            ConfigurationError,
            r"expected confidence in \(0, 1\)",
        ),
        (lambda: area_under_curve([0], [], until=1), ShapeError, "as many places as values"),
        (lambda: area_under_curve([0], [np.inf], until=1), NonFiniteError, "a finite curve"),
        (lambda: area_under_curve([1, 0], [1, 1], until=2), ConfigurationError, "rising places"),
        (lambda: area_under_curve([1], [1], until=1), ConfigurationError, "before until=1"),
    ],
)
def test_bad_input_is_refused(call: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        call()
