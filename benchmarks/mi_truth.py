r"""Estimates of mutual information where the truth is known.

    python benchmarks/mi_truth.py --json benchmarks/results/mi_truth.json
    python benchmarks/mi_truth.py --smoke

Tasks (``support/truths.py``; all in nats): ``channel-K-e`` is the K-ary symmetric channel with
error e; ``gao-m`` m uniform codes with states uniform over [Z, Z + 2); ``gaussian-DxD-r`` 2D
variables of which all pairs correlate by r; ``uniform-e`` a uniform code with uniform noise in
[-e, e]; ``student-DxD-r-v`` the Student distribution with v degrees of freedom (v = 1: Cauchy);
``lognormal-r`` exponentials of Gaussians; ``sphere-k`` a code on the sphere seen with the
concentration k.

Every estimator is measured on every task that it can take. Each row: estimator, task, samples
(those that q or a critic is trained on; critics hold a part of them out), seeds, truth, estimate
(mean over seeds), bias, standard_error of the mean, seconds (CPU time of one estimate, one thread).
``standard_error`` is the larger of two: from the scatter over seeds, which may be small by chance,
and from the errors that the estimates themselves come with, where they do; for
``categorical_exact``, whose terms are independent, it is the latter.
``measured_kl`` is E KL(p(z|s) || q(z|s)) of the trained q over all states: the gap that theory
gives the bound. Estimators:

- ``ksg``, ``ksg_2``, ``ross``: nearest neighbours, k = 3.
- ``categorical_exact``: the categorical bound with the exact posterior for q; ``categorical``,
  ``gaussian``, ``von_mises_fisher``, ``contrastive``: q trained, read on fresh samples.
- ``dv``, ``nwj``, ``mine``, ``smile``, ``js``, ``info_nce``: critics, read on held-out samples.

``--estimators`` measures some anew and keeps the rows of the others that the JSON has;
``--missing`` measures only the rows that it lacks, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from support.claims import SEEDS, check, sentence
from support.contenders import CONTENDERS, CONTRASTS, Contender
from support.results import write_results
from support.truth_plot import write_plot
from support.truths import Task, find_task

TASKS = (
    *(f"channel-{codes}-{error}" for codes in (2, 4, 8, 16, 32, 64) for error in (0.1, 0.3)),
    *(f"gao-{codes}" for codes in (2, 4, 8, 16, 24)),
    "gaussian-1x1-0.75",
    *(f"gaussian-{dim}x{dim}-0.5" for dim in (2, 3, 5, 25)),
    "uniform-0.1",
    "uniform-0.75",
    "lognormal-0.75",
    "student-1x1-0-1",
    "student-2x2-0.5-3",
    "sphere-4",
)
SMOKE_TASKS = ("channel-4-0.3", "gaussian-1x1-0.75", "sphere-4")
COMMAND = "benchmarks/mi_truth.py --json benchmarks/results/mi_truth.json"
Row = dict[str, Any]


def measure(contender: Contender, task: Task, size: int, seeds: int) -> Row:
    """Measure an estimator on a task with several seeds."""
    start = time.process_time()
    found = [contender.measure(task, size, seed) for seed in range(seeds)]
    seconds = (time.process_time() - start) / seeds
    estimates = torch.tensor([m.estimate for m in found], dtype=torch.float64)
    scatter = float(estimates.std()) / math.sqrt(seeds)
    pooled = math.sqrt(sum(m.deviation**2 for m in found)) / seeds
    if contender.name == "categorical_exact":
        error = pooled
    else:
        error = max(scatter, 0.0 if math.isnan(pooled) else pooled)
    estimate = float(estimates.mean())
    row = {
        "estimator": contender.name,
        "task": task.name,
        "samples": size,
        "seeds": seeds,
        "truth": round(task.truth, 5),
        "estimate": round(estimate, 5),
        "bias": round(estimate - task.truth, 5),
        "standard_error": round(error, 5),
        "seconds": round(seconds, 3),
    }
    if contender.name == "categorical":
        kl = torch.tensor([m.kl for m in found], dtype=torch.float64)
        gaps = task.truth - estimates - kl
        row["measured_kl"] = round(float(kl.mean()), 5)
        row["gap_error"] = round(float(gaps.std()) / math.sqrt(seeds), 5)
    return row


def measure_all(args: argparse.Namespace) -> list[Row]:
    """Measure what was asked for."""
    rows, there = [], existing(args.json) if args.missing else []
    known = set(map(name_of, there))
    for contender in CONTENDERS:
        if contender.name not in args.estimators:
            continue
        for task in map(find_task, SMOKE_TASKS if args.smoke else TASKS):
            if not contender.takes(task):
                continue
            sizes = (1_000,) if args.smoke else contender.sizes(task)
            for size in sizes:
                if (contender.name, task.name, size) in known:
                    continue
                rows.append(measure(contender, task, size, args.seeds))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        write(args, rows)
    return rows


def existing(path: Path | None) -> list[Row]:
    """Return the rows of a file, if it is there."""
    return json.loads(path.read_text())["rows"] if path is not None and path.exists() else []


def merged(args: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """Add the rows that a file has and that stay; in the order of estimators and tasks."""
    anew = {name_of(row) for row in rows}
    names = set() if args.missing else {row["estimator"] for row in rows}
    kept = [row for row in existing(args.json) if row["estimator"] not in names]
    rows = rows + [row for row in kept if name_of(row) not in anew]
    order = [contender.name for contender in CONTENDERS]

    def place(row: Row) -> tuple[int, int, int]:
        return (
            order.index(row["estimator"]),
            [*TASKS, *SMOKE_TASKS].index(row["task"]),
            row["samples"],
        )

    return sorted(rows, key=place)


def name_of(row: Row) -> tuple[str, str, int]:
    """Return what there is one row of."""
    return row["estimator"], row["task"], row["samples"]


def lacking(rows: list[Row]) -> dict[str, Any]:
    """Say which rows a whole run would have that are not there, or have fewer than ten seeds."""
    there = set(map(name_of, rows))
    tasks = [find_task(name) for name in TASKS]
    absent = [
        f"{contender.name} on {task.name}"
        for contender in CONTENDERS
        for task in filter(contender.takes, tasks)
        for size in contender.sizes(task)
        if (contender.name, task.name, size) not in there
    ]
    few = [f"{row['estimator']} on {row['task']}" for row in rows if row["seeds"] < SEEDS]
    return {
        "rows not measured": f"{len(absent)}: {', '.join(absent)}" if absent else "none",
        f"rows of fewer than {SEEDS} seeds": len(few),
    }


def write(args: argparse.Namespace, rows: list[Row]) -> list[dict[str, Any]]:
    """Write rows, claims and the plot; return the claims."""
    rows = merged(args, rows)
    bounds = {contender.name for contender in CONTENDERS if contender.is_bound}
    claims = check(rows, bounds, CONTRASTS)
    if args.json is not None:
        write_results(args.json, "Estimates beside the truth", lacking(rows) | {"rows": rows})
        page = args.json.with_suffix(".md")
        text = page.read_text().replace(" ".join(sys.argv), COMMAND)
        page.write_text(f"{text}\n## What must hold\n\n{sentence(claims)}")
        write_plot(args.json.with_suffix(".png"), rows)
    return claims


def main() -> None:
    """Measure, print, write, and fail where a claim does not hold."""
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--missing", action="store_true", help="only rows that the JSON lacks")
    parser.add_argument("--estimators", nargs="*", choices=names, default=names)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smoke:
        args.seeds = 2
    claims = write(args, measure_all(args))
    print(sentence(claims))
    if not args.smoke and any(not claim["holds"] for claim in claims):
        raise SystemExit("a claim does not hold")


if __name__ == "__main__":
    main()
