"""The claims of the benchmark of estimates notice the rows that break them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.support.claims import check, sentence

GOOD: list[dict[str, Any]] = [
    dict(estimator="categorical_exact", task="channel-4-0.1", bias=-0.02, standard_error=0.01),
    dict(
        estimator="categorical",
        task="channel-16-0.1",
        bias=-0.015,
        standard_error=0.01,
        measured_kl=0.01,
        gap_error=0.01,
    ),
    dict(estimator="categorical", task="channel-64-0.1", bias=-0.1, measured_kl=0.1, gap_error=0.0),
    dict(estimator="info_nce", task="channel-4-0.1", bias=-0.04, standard_error=0.01),
    dict(estimator="info_nce", task="channel-64-0.1", bias=-0.4, standard_error=0.01, truth=4.0),
    dict(estimator="ksg", task="gaussian-25x25-0.5", bias=-0.4, standard_error=0.01),
    dict(estimator="ksg", task="gaussian-3x3-0.5", bias=0.04, standard_error=0.01),
    dict(estimator="ross", task="gao-24", bias=0.04, standard_error=0.01),
    dict(estimator="smile", task="gao-24", bias=0.9, standard_error=0.01),
]


def claims(changes: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    common = {"seeds": 10, "samples": 10, "truth": 1.0, "standard_error": 0.01}
    rows = [common | row | changes.get(index, {}) for index, row in enumerate(GOOD)]
    names = {"categorical_exact", "categorical", "info_nce"}
    return check(rows, names, contrasts=1024)


def test_good_rows_break_nothing() -> None:
    found = claims({})
    assert [claim["holds"] for claim in found] == [True] * 6
    assert "violated" not in sentence(found)


@pytest.mark.parametrize(
    ("row", "change", "broken"),
    [
        (0, {"bias": -0.031}, [0]),
        (0, {"bias": 0.031}, [0, 5]),
        (0, {"bias": float("nan")}, [0, 5]),
        (1, {"bias": -0.025}, [1]),
        (2, {"measured_kl": 0.09}, [2]),
        (3, {"bias": -0.06}, [3]),
        (4, {"truth": 3.0}, [3]),
        (6, {"bias": -0.06}, [4]),
        (7, {"bias": 0.06}, [4]),
        (3, {"bias": 0.035}, [5]),
    ],
)
def test_a_row_that_breaks_a_claim_is_named(
    row: int, change: dict[str, Any], broken: list[int]
) -> None:
    found = claims({row: change})
    assert [index for index, claim in enumerate(found) if not claim["holds"]] == broken
    assert all(
        claim["broken"][0]["task"] == GOOD[row]["task"] for claim in map(found.__getitem__, broken)
    )
    assert sentence(found).count("breaks it: " + GOOD[row]["estimator"]) == len(broken)


def test_a_claim_without_rows_does_not_hold() -> None:
    assert not any(claim["holds"] for claim in check([], {"dv"}, contrasts=8))
