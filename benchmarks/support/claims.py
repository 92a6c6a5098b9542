"""What must hold of the rows of ``mi_truth.py``: each claim with the rows that break it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["SEEDS", "check", "sentence"]

SEEDS = 10
Row = dict[str, Any]


def check(rows: list[Row], bounds: set[str], contrasts: int) -> list[dict[str, Any]]:
    """Check every claim on the rows that it is about.

    Args:
        rows: of the table.
        bounds: names of the estimators that are lower bounds.
        contrasts: N of InfoNCE.

    Returns:
        For each claim ``claim``, ``rows`` (how many it is about), ``worst`` (the row nearest to, or
        farthest beyond, what is allowed), ``broken`` (rows) and ``holds``.
    """
    largest = {key: max(group) for key, group in _sizes(rows).items()}
    last = [row for row in rows if row["samples"] == largest[row["estimator"], row["task"]]]
    low = [row for row in last if _dims(row) <= 3]
    half = math.log(contrasts) / 2
    learned = [row for row in last if row["estimator"] == "categorical" and _is_channel(row)]
    return [
        _claim(
            "with the exact posterior the categorical bound is within 3 standard errors of the "
            "truth on every channel and mixture",
            _of(rows, "categorical_exact"),
            lambda row: abs(row["bias"]) - 3 * row["standard_error"],
        ),
        _claim(
            "with a q learned from 20 000 samples it is within .02 of the truth on channels up to "
            "K = 16",
            [row for row in learned if _codes(row) <= 16],
            lambda row: abs(row["bias"]) - 0.02,
        ),
        _claim(
            "on channels and mixtures of any K the gap of the learned q is its measured KL, within "
            "3 standard errors of their difference",
            _of(last, "categorical"),
            lambda row: abs(row["bias"] + row["measured_kl"]) - 3 * row["gap_error"],
        ),
        _claim(
            f"InfoNCE is within .05 of the truth where that is below half of log {contrasts} "
            f"({half:.2f})",
            [row for row in _of(last, "info_nce") if row["truth"] < half],
            lambda row: abs(row["bias"]) - 0.05,
        ),
        _claim(
            "KSG and Ross are within .05 of the truth in up to 3 x 3 dimensions, at their largest "
            "number of samples",
            _of(low, "ksg", "ross"),
            lambda row: abs(row["bias"]) - 0.05,
        ),
        _claim(
            "every lower bound is below the truth plus 3 standard errors, where there are the "
            f"{SEEDS} seeds that an error takes",
            [row for row in _of(rows, *bounds) if row["seeds"] >= SEEDS],
            lambda row: row["bias"] - 3 * row["standard_error"],
        ),
    ]


def sentence(claims: Iterable[dict[str, Any]]) -> str:
    """Return the claims as a list in Markdown."""
    return "".join(_line(claim) for claim in claims)


def _line(claim: dict[str, Any]) -> str:
    verdict = "ok" if claim["holds"] else "violated"
    text = f"- **{verdict}**: {claim['claim']} ({claim['rows']} rows"
    if claim["worst"]:
        text += f"; nearest to breaking it: {_name(claim['worst'])}"
    text += ").\n"
    return text + "".join(f"  - breaks it: {_name(row)}\n" for row in claim["broken"])


def _name(row: Row) -> str:
    text = f"{row['estimator']} on {row['task']} with {row['samples']}, bias {row['bias']:+.4f}"
    text += f" +- {row['standard_error']:.4f}"
    return text + (f", measured KL {row['measured_kl']:.4f}" if "measured_kl" in row else "")


def _claim(text: str, rows: list[Row], excess: Callable[[Row], float]) -> dict[str, Any]:
    """Make a claim that holds where the excess of every row is not positive."""
    broken = [row for row in rows if not excess(row) <= 0]
    worst = max(rows, key=excess, default=None)
    holds = not broken and bool(rows)
    return {"claim": text, "rows": len(rows), "worst": worst, "broken": broken, "holds": holds}


def _of(rows: list[Row], *names: str) -> list[Row]:
    return [row for row in rows if row["estimator"] in names]


def _sizes(rows: list[Row]) -> dict[tuple[str, str], list[int]]:
    sizes: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        sizes.setdefault((row["estimator"], row["task"]), []).append(row["samples"])
    return sizes


def _is_channel(row: Row) -> bool:
    return row["task"].startswith("channel")


def _codes(row: Row) -> int:
    return int(row["task"].split("-")[1])


def _dims(row: Row) -> int:
    """Return the dimensions of a task's state, as its name says: 1 where it says nothing."""
    size = row["task"].split("-")[1]
    return int(size.split("x")[0]) if "x" in size else 1
