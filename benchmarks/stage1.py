"""Stage 1 by reinforcement learning with each reward estimator, beside cluster discovery.

    python benchmarks/stage1.py --json benchmarks/results/stage1.json --seeds 0 1 2

Each seed clones a base of its own. Every run of reinforcement learning is PPO on the intrinsic
reward alone (coefficient 1, KL to N(0, I) weighted by .02) while the estimator learns online, once
from the base ("prior") and once from the start that imitation gives ("imitation"). K, the number of
codes, is what cluster discovery takes: twice the number of clusters that it finds. All estimators
share widths, input noise (the task's), optimiser and budget; nothing is tuned for one of them.

*Timing of the reward*: as the recipes choose, which is at the end of the episode where the time
limit terminates, and the difference of two states for METRA and LSD, whose reward that is. It is
clamped as each estimator's limit says; GaussianMI has none and gets what its documentation advises.

*Imitation*: episodes of the base are clustered, and the steering policy is fitted once to the
noises of each cluster; that spends the base's episodes and no others. Continuous codes get a cell
of the code space for each cluster: K anchors are k-means of draws of the prior, a code belongs to
the cell of its nearest anchor, and each noise is imitated with codes drawn from the prior within
its cluster's cell. "cluster" goes on from there with up to five rounds of refinement, no
reinforcement learning.

*Evaluation*, the same for all: 4096 episodes with sampled noise, shared evenly by fixed codes: all
K discrete ones, or 48 draws of a continuous prior. "base" is the cloned policy.

Rows: task, seed, method, start, codes (K, or the prior of continuous codes), success, entropy (by
the log of the number of modes), purity (share of the episodes with a decided label that belong to
the most frequent mode of their code), present_modes, commandable_modes, nmi (of code and mode),
bound (nats; None where the estimator's figure bounds no information), env_steps (those of the start
and of scaling included), seconds (of the CPU, those of the start included; without evaluation and
cloning), largest_modes (shares of the successes, of the two largest), what else the evaluation
found, and of METRA's and LSD's last iteration dual (the dual variable) and too_long (the share of
steps that violate the constraint). A finished row is kept in ``--out``; a benchmark that was
interrupted goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from support.stage1 import Bench, Budget, Entry
from support.stage1_table import write_stage1

from modereg.errors import ConfigurationError
from modereg.estimators import (
    LSD,
    METRA,
    CategoricalMI,
    ContrastiveMI,
    GaussianMI,
    VonMisesFisherMI,
)
from modereg.files import read_json, write_json
from modereg.priors import CategoricalPrior, NormalPrior, SphericalPrior

DIM = 3
"""Length of continuous codes."""

NORMAL, SPHERE = NormalPrior(DIM), SphericalPrior(DIM)
ESTIMATORS = {
    "CategoricalMI": Entry(CategoricalMI),
    "ContrastiveMI": Entry(ContrastiveMI),
    "METRA": Entry(METRA),
    "LSD": Entry(LSD),
    "GaussianMI": Entry(lambda size, _: GaussianMI(size, NORMAL), (-2.0 * DIM, 4.0 * DIM)),
    "VonMisesFisherMI": Entry(lambda size, _: VonMisesFisherMI(size, SPHERE)),
    "ContrastiveMI, sphere": Entry(lambda size, _: ContrastiveMI(size, SPHERE)),
    "METRA, sphere": Entry(lambda size, _: METRA(size, SPHERE)),
}

BUDGETS = {
    "gaussian_mixture": Budget("task:gaussian_mixture", 2000, 4096, 600, 200, 20),
    "avoid": Budget("task:avoid", 6000, 16384, 1500, 400, 60),
}


def jobs(bench: Bench, estimators: list[str]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield method, start and what makes the row, cheap ones first."""
    yield "base", "-", bench.base
    yield "imitation", "-", partial(bench.imitation, "imitation", CategoricalPrior(bench.num_codes))
    yield "cluster", "-", bench.cluster
    priors = {}
    for method in estimators:
        prior = ESTIMATORS[method].make(bench.feature_dim, bench.num_codes).prior
        if prior.num_codes is None:
            priors[repr(prior)] = prior
    for name, prior in priors.items():
        label = f"imitation, {name}"
        yield label, "-", partial(bench.imitation, label, prior)
    for method in estimators:
        for start in ("prior", "imitation"):
            yield method, start, partial(bench.reinforce, method, ESTIMATORS[method], start)


class Work:
    """The rows so far, one a line of a file that only grows.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def has(self, *key: Any) -> bool:
        """Say whether there is a row of this task, seed, method and start."""
        return key in {(r["task"], r["seed"], r["method"], r["start"]) for r in self.rows}

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and print what matters of it."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = ("task", "seed", "method", "start", "success", "entropy", "purity")
        shown = (*shown, "present_modes", "commandable_modes", "bound", "seconds")
        print(*(f"{v:.3f}" if isinstance(v := row[name], float) else v for name in shown))


def check_budgets(path: Path, budgets: dict[str, Budget]) -> None:
    """Keep rows of other budgets out of a folder: it belongs to those that it was begun with."""
    wanted = {name: asdict(budget) for name, budget in budgets.items()}
    if not path.exists():
        write_json(path, wanted)
    elif read_json(path) != wanted:
        raise ConfigurationError(
            f"{path.parent} holds rows of other budgets; name another folder with --out"
        )


def run(options: argparse.Namespace, out: Path, budgets: dict[str, Budget]) -> Work:
    check_budgets(out / "budgets.json", budgets)
    work = Work(out / "rows.jsonl")
    for seed in options.seeds:
        for name in options.tasks:
            bench = Bench(name, budgets[name], seed, out)
            for method, start, make in jobs(bench, options.estimators):
                if not work.has(name, seed, method, start):
                    work.add(make())
            write_stage1(options.json, work.rows)
    return work


def smoke(budget: Budget) -> Budget:
    """Return next to no budget."""
    return Budget(budget.task, 60, 512, 20, 5, 1, episodes=128, refinements=1, num_envs=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument(
        "--estimators", nargs="+", default=list(ESTIMATORS), choices=list(ESTIMATORS)
    )
    parser.add_argument("--out", type=Path, default=Path("runs/stage1"), help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="next to no budget, from nothing")
    options = parser.parse_args()
    if not options.smoke:
        run(options, options.out, BUDGETS)
        return
    options.seeds, options.tasks = [0], ["gaussian_mixture"]
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder), {name: smoke(budget) for name, budget in BUDGETS.items()})


if __name__ == "__main__":
    main()
