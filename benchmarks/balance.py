"""Balances: what each keeps, and whether that hangs on the unit of the reward.

    python benchmarks/balance.py --json benchmarks/results/balance.json

Fine-tunings go on from one stage 1, where routes pay 1 +- .5 times a scale. The balances are those
of ``modereg finetune LEARNER BALANCE``, with their own defaults, beside constants of another size:
``none`` pays nothing intrinsic, and ``fixed`` is a constant in the unit of the reward, .3 over the
scale, as if returns were not divided by their size. A run that is interrupted goes on when the
command is repeated. Two beds:

- avoid: PPO from the stage 1 of ``finetuners.py``, a million steps. Its learning rate is 1e-3,
  three times the default, so that codes are lost which no reward holds; with the default all are
  kept for two million without any intrinsic reward. Some balances have several seeds at scale 1,
  all else one.
- maze: soft actor-critic with its defaults, from the stage 1 of ``foreign_policies.py`` on MuJoCo's
  maze, 150 000 steps; every balance and four constants with every seed.

Rows: task, pay (the spread), scale, balance, seed (of the fine-tuning; stage 1 is the same),
success, return (over the scale), entropy (by the log of modes), modes, present, commandable,
return_scale and coef (of several the mean, and coef_min and coef_max) at the end, env_steps (those
of stage 1 included) and cpu_seconds (of the run alone).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import finetuners
import foreign_policies
from finetuners import QUIET
from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.balances.config import BALANCES
from modereg.files import read_json
from modereg.recipes.config import FinetuneConfig

DEFAULT = FinetuneConfig().balance.name
KEPT = ("return_scale", "coef", "coef_min", "coef_max")
CONSTANTS = {"none": 0.0, "constant .1": 0.1, "constant 1": 1.0, "constant 3": 3.0}

Case = tuple[float, float, str, int]
"""Spread, scale, balance and seed of a run."""


@dataclass(frozen=True)
class Bed:
    """A stage 1, and how it goes on.

    Attributes:
        name: of the bed.
        modes: number of behaviours.
        out: folder of the runs.
        base: folder of the policy.
        stage1: folder of the run.
        learner: of ``finetune``.
        options: of ``finetune``; those of the task by :meth:`task`.
        judged: episodes at the end.
        env_steps: environment steps after stage 1.
    """

    name: str
    modes: int
    out: Path
    base: Path
    stage1: Path
    learner: str
    options: dict[str, Any]
    judged: int
    env_steps: int

    def task(self, spread: float, scale: float) -> tuple[str | float, ...]:
        """Return the options of the task."""
        return ("pay_spread", spread, *(("scale", scale) if self.name == "avoid" else ()))

    def cases(self, spread: float, seeds: list[int]) -> list[Case]:
        """Return what is run."""
        if self.name == "maze":
            rules = (*CONSTANTS, *BALANCES)
            return [(spread, 1.0, rule, seed) for seed in seeds for rule in rules]
        first, *others = seeds
        alike = [(spread, 1.0, rule, first) for rule in ("none", *BALANCES)]
        several = ("none", "constant", "bound")
        again = [(spread, 1.0, rule, seed) for seed in others for rule in several]
        scaled = [(spread, by, rule, first) for by in (10.0, 0.1) for rule in ("fixed", DEFAULT)]
        return alike + again + scaled

    def tune(self, spread: float, scale: float, balance: str, seed: int) -> dict[str, Any]:
        """Fine-tune, unless that is done, and return the row."""
        out = self.out / f"{balance.replace(' ', '_')}_{spread}_{scale}_{seed}"
        if not (out / "summary.json").exists():
            coef = (CONSTANTS | {"fixed": 0.3 / scale}).get(balance)
            spent = read_json(self.stage1 / "summary.json")["env_steps"]
            run(
                f"finetune {self.learner} {balance if coef is None else 'constant'}",
                *QUIET,
                "--accept-uncommanded",
                cwd=Path(__file__).parent,
                task__options=self.task(spread, scale),
                base=self.base,
                start=self.stage1,
                out=out,
                seed=seed,
                env_steps=spent + self.env_steps,
                eval_episodes=min(512, self.judged),
                final_episodes=self.judged,
                **self.options,
                **({} if coef is None else {"balance__coef": coef}),
            )
        about = {"task": self.name, "pay": f"1 +- {spread}", "scale": scale, "balance": balance}
        return about | {"seed": seed} | self._figures(out, scale)

    def _figures(self, out: Path, scale: float) -> dict[str, Any]:
        summary = read_json(out / "summary.json")
        figures = summary["sampled"]
        with (out / "curves.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        return {
            "success": round(figures["success"], 4),
            "return": round(figures["mean_return"] / scale, 4),
            "entropy": round(figures["entropy"], 4),
            "modes": self.modes,
            "present": figures["present_modes"],
            "commandable": figures["commandable_modes"],
            **{name: round(float(last[name]), 4) if last.get(name) else None for name in KEPT},
            "env_steps": summary["env_steps"],
            "cpu_seconds": round(cpu_seconds(out), 1),
        }


def avoid(out: Path, smoke: bool) -> Bed:
    """Return Avoid, after its stage 1 has run."""
    budget = finetuners.SMOKE if smoke else finetuners.Budget(judged=2048)
    start = finetuners.Seed(out, 0, budget)
    start.begin()
    options = {
        "task__name": "support.scaled_avoid:scaled_avoid",
        "task__num_envs": 512,
        "learner__learning_rate": 1e-3,
        "eval_every": 7,
    }
    found = (out, start.out / "base" / "policy", start.out / "stage1")
    steps = int(budget.share * 1_000_000)
    return Bed("avoid", finetuners.MODES, *found, "ppo", options, budget.judged, steps)


def maze(out: Path, smoke: bool) -> Bed:
    """Return MuJoCo's maze, after its stage 1 has run."""
    budget = foreign_policies.SMOKE if smoke else foreign_policies.Budget(judged=2048)
    session = foreign_policies.Session(out, "mujoco", 0, budget)
    session.train()
    session.do("stage1")
    options = session.task | budget.replay | {"eval_every": 1000}
    found = (out / "balances", session.common["base"], session.runs / "stage1")
    return Bed("maze", session.bed.modes, *found, "sac", options, budget.judged, budget.more_steps)


BEDS = {"avoid": avoid, "maze": maze}


def main() -> None:
    """Run everything that is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beds", nargs="+", choices=BEDS, default=list(BEDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, one row")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("balance_smoke" if args.smoke else "balance")
    rows = []
    for name in args.beds[:1] if args.smoke else args.beds:
        bed = BEDS[name](out.resolve(), args.smoke)
        todo = bed.cases(args.spread, args.seeds)
        for case in todo[2:3] if args.smoke else todo:
            rows.append(bed.tune(*case))
            write_results(args.json, "Balances", {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
