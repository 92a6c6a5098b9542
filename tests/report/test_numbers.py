from __future__ import annotations

import pytest
from scipy import stats

from modereg.report.numbers import NONE, number, over_runs, percent, rate, span, steps


def test_no_rate_below_one_is_called_all() -> None:
    rates = (0.0, 0.5, 0.99, 0.9951, 0.9999, 1.0)
    said = [percent(rate).removesuffix("\u2009%") for rate in rates]
    assert said == ["0", "50", "99", "99.5", "99.9", "100"]


@pytest.mark.parametrize("form", [".3f", ",.0f", ".1f", ".3g"])
def test_what_rounds_to_zero_has_no_sign(form: str) -> None:
    for value in (-0.0, 0.0) if form == ".3g" else (-0.0, -1e-9, 0.0):
        assert not number(value, form).startswith("-")
    assert number(-1.5, ".1f") == "-1.5"
    assert number(None) == NONE
    assert rate({"success": -0.0, "success_error": 0.0}) == "0.000 ± 0.000"


def test_cells_of_any_kind() -> None:
    assert [steps(value) for value in (None, 900, 99_999, 4.2e6)] == [
        NONE, "900", "99,999", "4.20 M",
    ]  # fmt: skip
    assert span([0.5, 0.25], percent) == "25\u2009% to 50\u2009%"
    assert span([0.501, 0.5], percent) == "50\u2009%"


def test_few_runs_are_points_and_five_have_an_interval() -> None:
    """Nothing is called an interval over three seeds."""
    values = [0.91, 0.95, 0.99, 0.93, 0.97]
    assert over_runs(values[:3]) == "0.950 (0.910, 0.950, 0.990)"
    assert "[" not in over_runs(values[:4])
    low, high = stats.t.interval(0.95, 4, loc=0.95, scale=stats.sem(values))
    assert over_runs(values) == f"0.950 [{low:.3f}, {high:.3f}]"
    assert over_runs([]) == NONE
