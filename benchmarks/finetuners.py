"""Fine-tuners on Avoid, plain and with modereg: what each keeps, and what it costs.

    python benchmarks/finetuners.py --json benchmarks/results/finetuners.json --seeds 0 1 2

Everything but the learner and the number of steps is as the commands have it by default; each seed
has a base and a stage 1 of its own. A run that is interrupted goes on when the command is repeated.

Rows: task (with the spread of what the routes pay), learner, method (plain or modereg), balance,
seed, success, return, entropy (by log 24), modes, present, commandable, env_steps (those of stage 1
included), steps_to_90, steps_to_95 (the first evaluation of 512 episodes with as much success; for
modereg stage 1's end counts as one; null where it was never seen) and cpu_seconds (stage 1's
included, evaluations too).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.files import read_json

QUIET = ("--log.no-progress", "--log.no-tensorboard", "--no-page", "--resume")
SPREADS = (0.3, 0.5)
MODES = 24


@dataclass(frozen=True)
class Learner:
    """How long a learner runs, and how often it is evaluated.

    Attributes:
        plain: environment steps from the base.
        more: environment steps from stage 1, after it.
        eval_every: batches.
    """

    plain: int
    more: int
    eval_every: int


LEARNERS = {
    "ppo": Learner(2_000_000, 1_000_000, 2),
    "sac": Learner(300_000, 300_000, 5),
    "dsrl": Learner(300_000, 300_000, 5),
    "residual": Learner(300_000, 300_000, 5),
    "dppo": Learner(600_000, 300_000, 2),
}


@dataclass(frozen=True)
class Budget:
    """What a smoke run makes small.

    Attributes:
        judged: episodes at the end.
        share: of the environment steps.
        base: options of ``pretrain``.
        discover: options of ``discover``.
        learners: options of a learner, by its name.
    """

    judged: int = 4096
    share: float = 1.0
    base: tuple[tuple[str, Any], ...] = ()
    discover: tuple[tuple[str, Any], ...] = ()
    learners: dict[str, dict[str, Any]] = field(default_factory=dict)


SMOKE = Budget(
    128,
    0.05,
    (("episodes", 200), ("steps", 20)),
    (("num_codes", 4), ("method__episodes", 512), ("method__refinements", 1)),
    {
        name: {"learner__prefill": 1024, "learner__updates": 0.02}
        for name in ("sac", "dsrl", "residual")
    },
)


class Seed:
    """The runs of one seed.

    Args:
        out: their folder.
        seed: of all of them.
        budget: how much of everything.
    """

    def __init__(self, out: Path, seed: int, budget: Budget) -> None:
        self.out, self.seed, self.budget = out, seed, budget

    def _common(self, spread: float) -> dict[str, Any]:
        task = {"task__name": "task:avoid", "task__num_envs": 512, "seed": self.seed}
        return task | {"task__options": ("pay_spread", spread)}

    def begin(self) -> None:
        """Clone the base, and run stage 1."""
        common, budget = self._common(SPREADS[0]), self.budget
        if not (self.out / "base" / "summary.json").exists():
            flags = [*QUIET[:2], "--resume"]
            run("pretrain", *flags, **common, **dict(budget.base), out=self.out / "base")
        common |= {"base": self.out / "base" / "policy", "final_episodes": budget.judged}
        if not (self.out / "stage1" / "summary.json").exists():
            more = dict(budget.discover)
            run("discover", *QUIET, **common, **more, out=self.out / "stage1")

    def tune(self, learner: str, method: str, spread: float) -> dict[str, Any]:
        """Fine-tune, unless that is done, and return the row."""
        out, budget = self.out / f"{learner}_{method}_{spread}", self.budget
        first, length = read_json(self.out / "stage1" / "summary.json"), LEARNERS[learner]
        plain = method == "plain"
        steps = int(budget.share * (length.plain if plain else length.more))
        if not (out / "summary.json").exists():
            options = self._common(spread) | {"base": self.out / "base" / "policy"}
            flags = [*QUIET]
            if not plain:
                options["start"] = self.out / "stage1"
                flags.append("--accept-uncommanded")
            run(
                f"finetune {learner}",
                *flags,
                **options,
                **budget.learners.get(learner, {}),
                out=out,
                env_steps=steps + (0 if plain else first["env_steps"]),
                eval_every=length.eval_every,
                eval_episodes=min(512, budget.judged),
                final_episodes=budget.judged,
            )
        summary = read_json(out / "summary.json")
        figures, seen = (
            summary["sampled"],
            [] if plain else [(first["env_steps"], first["sampled"])],
        )
        spent = cpu_seconds(out) + (0.0 if plain else cpu_seconds(self.out / "stage1"))
        return {
            "task": f"avoid, pay +- {spread}",
            "learner": learner,
            "method": method,
            "balance": "constant",
            "seed": self.seed,
            "success": round(figures["success"], 4),
            "return": round(figures["mean_return"], 4),
            "entropy": round(figures["entropy"], 4),
            "modes": MODES,
            "present": figures["present_modes"],
            "commandable": figures["commandable_modes"],
            "env_steps": summary["env_steps"],
            "steps_to_90": steps_to(0.9, out, seen),
            "steps_to_95": steps_to(0.95, out, seen),
            "cpu_seconds": round(spent, 1),
        }


def steps_to(success: float, folder: Path, seen: list[tuple[int, dict[str, Any]]]) -> int | None:
    """Return the environment steps at the first evaluation with so much success, or None.

    Args:
        success: share of the episodes.
        folder: of the run.
        seen: what was judged before it began: steps and figures.
    """
    judged = [(steps, figures["success"]) for steps, figures in seen]
    with (folder / "curves.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("success")]
    judged += [(int(float(row["env_steps"])), float(row["success"])) for row in rows]
    return next((steps for steps, found in judged if found >= success), None)


def main() -> None:
    """Run everything that is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spreads", type=float, nargs="+", default=list(SPREADS))
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny budget, two learners from stage 1"
    )
    args = parser.parse_args()
    out = args.out or Path("runs") / ("finetuners_smoke" if args.smoke else "finetuners")
    seeds, spreads = (
        (args.seeds[:1], args.spreads[:1]) if args.smoke else (args.seeds, args.spreads)
    )
    rows: list[dict[str, Any]] = []
    for number in seeds:
        seed = Seed((out / f"seed{number}").resolve(), number, SMOKE if args.smoke else Budget())
        seed.begin()
        for spread in spreads:
            for learner in ("ppo", "dsrl") if args.smoke else args.learners:
                for method in ("modereg",) if args.smoke else ("plain", "modereg"):
                    rows.append(seed.tune(learner, method, spread))
                    write_results(args.json, "Fine-tuners on Avoid", {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
