"""Nearest-neighbour estimates beside scikit-learn's on the same samples.

    python benchmarks/neighbours.py --json benchmarks/results/neighbours.json
    python benchmarks/neighbours.py --smoke

Each row: estimator (``ksg_information`` beside ``mutual_info_regression``, ``ross_information``
beside ``mutual_info_classif``, k = 3), task, samples, columns (scikit-learn's functions know only
pairs of columns, so several are estimated one by one by both), ours and theirs (the estimates in
nats, the first column's), difference (the largest over columns; theirs replaces negative estimates
by 0, so ours are too before they are compared), seconds and seconds_theirs (CPU
time on one thread, least over rounds) and ratio (ours over theirs, median over rounds that
alternate between the two). Rows of vectors have no counterpart and show our time alone. The last
rows are of 100 000 samples, each in its own process: ``peak_mib`` is by how much the estimate
raised the process's peak memory; a matrix of all pairs would be 76 294 MiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from support.results import write_results

from modereg.information import ksg_information, ross_information


def samples(task: str, size: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw codes or a target ``[N]`` and features ``[N, columns]`` that depend on them."""
    rng = np.random.default_rng(0)
    if task == "gao-8":
        latent = rng.integers(8, size=size)
        return latent, latent[:, None] + 2 * rng.random((size, columns))
    rho = {"gaussian-0.75": 0.75, "independent": 0.0}[task]
    target = rng.standard_normal(size)
    noise = rng.standard_normal((size, columns))
    return target, rho * target[:, None] + (1 - rho**2) ** 0.5 * noise


def ours(target: np.ndarray, features: np.ndarray) -> list[float]:
    """Estimate column by column."""
    first = torch.from_numpy(target)
    estimate = ksg_information if first.is_floating_point() else ross_information
    return [estimate(first, torch.from_numpy(column)) for column in features.T]


def theirs(target: np.ndarray, features: np.ndarray) -> list[float]:
    """Estimate by scikit-learn, which goes column by column."""
    discrete = target.dtype.kind == "i"
    estimate = mutual_info_classif if discrete else mutual_info_regression
    return estimate(features, target, n_neighbors=3, random_state=0).tolist()


def seconds(function: Callable[..., Any], *data: np.ndarray) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function(*data)
    return time.process_time() - start


def compare(task: str, size: int, columns: int, rounds: int) -> dict[str, Any]:
    """Measure a task with both, by turns."""
    data = samples(task, size, columns)
    first, second = ours(*data), theirs(*data)
    difference = np.abs(np.maximum(first, 0.0) - second).max()
    times = []
    for turn in range(rounds):
        order = (ours, theirs) if turn % 2 else (theirs, ours)
        times.append({function.__name__: seconds(function, *data) for function in order})
    return {
        "estimator": "ross_information" if task.startswith("gao") else "ksg_information",
        "task": task,
        "samples": size,
        "columns": columns,
        "ours": round(first[0], 6),
        "theirs": round(second[0], 6),
        "difference": f"{difference:.1e}",
        "seconds": round(min(t["ours"] for t in times), 4),
        "seconds_theirs": round(min(t["theirs"] for t in times), 4),
        "ratio": round(statistics.median(t["ours"] / t["theirs"] for t in times), 3),
    }


def vectors(task: str, size: int, columns: int, rounds: int) -> dict[str, Any]:
    """Measure all columns as one vector, which scikit-learn cannot do."""
    target, features = map(torch.from_numpy, samples(task, size, columns))
    estimate = ross_information if task.startswith("gao") else ksg_information
    return {
        "estimator": estimate.__name__,
        "task": f"{task}, a vector",
        "samples": size,
        "columns": columns,
        "ours": round(estimate(target, features), 6),
        "seconds": round(min(seconds(estimate, target, features) for _ in range(rounds)), 4),
    }


def _grow(task: str, size: int, columns: int, queue: Any) -> None:
    """Estimate in this fresh process; put the estimate, its time and the growth of its peak."""
    torch.set_num_threads(1)
    data = samples(task, size, columns)
    ours(*(part[:100] for part in data))  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is used now
    before = kibibytes("VmRSS")
    start = time.process_time()
    estimate = ours(*data)[0]
    spent = time.process_time() - start
    queue.put((estimate, spent, kibibytes("VmHWM") - before))


def kibibytes(name: str) -> int:
    """Read a figure of this process's memory (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def large(task: str, size: int) -> dict[str, Any]:
    """Measure a large sample and how much memory it takes."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_grow, args=(task, size, 1, queue))
    process.start()
    estimate, spent, growth = queue.get(timeout=300)
    process.join()
    return {
        "estimator": "ross_information" if task.startswith("gao") else "ksg_information",
        "task": task,
        "samples": size,
        "columns": 1,
        "ours": round(estimate, 6),
        "seconds": round(spent, 4),
        "peak_mib": round(growth / 1024, 1),
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write one object with rows here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size, many, rounds = (2_000, 10_000, 3) if options.smoke else (20_000, 100_000, 15)
    rows = []
    for task in ("gaussian-0.75", "independent", "gao-8"):
        for columns in (1, 4):
            rows.append(compare(task, size, columns, rounds))
            print(rows[-1], flush=True)
    for task in ("gaussian-0.75", "gao-8"):
        rows += [vectors(task, size, 4, 3), large(task, many)]
        print(*rows[-2:], sep="\n", flush=True)
    if options.json is not None:
        write_results(options.json, "Nearest neighbours beside scikit-learn", {"rows": rows})


if __name__ == "__main__":
    main()
