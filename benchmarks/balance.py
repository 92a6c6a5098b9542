"""Balances on Avoid: what each keeps, and whether that hangs on the unit of the reward.

    python benchmarks/balance.py --json benchmarks/results/balance.json

PPO goes on from one stage 1, that of ``benchmarks/finetuners.py``, where routes pay 1 +- .5 times a
scale. Its learning rate is 1e-3, three times the default, so that within a million
environment steps codes are lost which no reward holds; with the default all are kept for two
million without any intrinsic reward. The balances are those of ``modereg finetune ppo BALANCE``,
with their own defaults, beside two of the benchmark: ``none`` pays nothing intrinsic, and ``fixed``
is a constant in the unit of the reward, .3 over the scale, as if returns were not divided by their
size. Some balances have several seeds at scale 1, all else one. A run that is interrupted goes on
when the command is repeated.

Rows: pay (the spread), scale, balance, seed (of the fine-tuning; stage 1 is the same), success,
return (over the scale), entropy (by log 24), modes, present, commandable, return_scale and coef (of
several the mean, and coef_min and coef_max) at the end, env_steps (those of stage 1 included) and
cpu_seconds (of the run alone).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from finetuners import MODES, QUIET, SMOKE, Budget, Seed
from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.balances.config import BALANCES
from modereg.files import read_json
from modereg.recipes.config import FinetuneConfig

ENV_STEPS = 1_000_000
"""Environment steps after stage 1."""

DEFAULT = FinetuneConfig().balance.name
KEPT = ("return_scale", "coef", "coef_min", "coef_max")


def cases(spread: float, seeds: list[int]) -> list[tuple[float, float, str, int]]:
    """Return spread, scale, balance and seed of each run."""
    first, *others = seeds
    alike = [(spread, 1.0, rule, first) for rule in ("none", *BALANCES)]
    again = [(spread, 1.0, rule, seed) for seed in others for rule in ("none", "constant", "bound")]
    scaled = [(spread, by, rule, first) for by in (10.0, 0.1) for rule in ("fixed", DEFAULT)]
    return alike + again + scaled


class Balances:
    """The runs from one stage 1.

    Args:
        start: has a base and a stage 1.
        budget: how much of everything.
    """

    def __init__(self, start: Seed, budget: Budget) -> None:
        self.start, self.budget = start, budget

    def tune(self, spread: float, scale: float, balance: str, seed: int) -> dict[str, Any]:
        """Fine-tune, unless that is done, and return the row."""
        stage1 = self.start.out / "stage1"
        out = self.start.out / f"{balance}_{spread}_{scale}_{seed}"
        if not (out / "summary.json").exists():
            coef = {"none": 0.0, "fixed": 0.3 / scale}.get(balance)
            spent = read_json(stage1 / "summary.json")["env_steps"]
            run(
                f"finetune ppo {balance if coef is None else 'constant'}",
                *QUIET,
                "--accept-uncommanded",
                cwd=Path(__file__).parent,
                task__name="support.scaled_avoid:scaled_avoid",
                task__num_envs=512,
                task__options=("pay_spread", spread, "scale", scale),
                base=self.start.out / "base" / "policy",
                start=stage1,
                out=out,
                seed=seed,
                env_steps=spent + int(self.budget.share * ENV_STEPS),
                eval_every=7,
                eval_episodes=min(512, self.budget.judged),
                final_episodes=self.budget.judged,
                learner__learning_rate=1e-3,
                **({} if coef is None else {"balance__coef": coef}),
            )
        about = {"pay": f"1 +- {spread}", "scale": scale, "balance": balance, "seed": seed}
        return about | self._figures(out, scale)

    def _figures(self, out: Path, scale: float) -> dict[str, Any]:
        summary = read_json(out / "summary.json")
        figures = summary["sampled"]
        with (out / "curves.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        return {
            "success": round(figures["success"], 4),
            "return": round(figures["mean_return"] / scale, 4),
            "entropy": round(figures["entropy"], 4),
            "modes": MODES,
            "present": figures["present_modes"],
            "commandable": figures["commandable_modes"],
            **{name: round(float(last[name]), 4) if last.get(name) else None for name in KEPT},
            "env_steps": summary["env_steps"],
            "cpu_seconds": round(cpu_seconds(out), 1),
        }


def main() -> None:
    """Run everything that is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, one row")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("balance_smoke" if args.smoke else "balance")
    budget = SMOKE if args.smoke else Budget(judged=2048)
    start = Seed(out.resolve(), 0, budget)
    start.begin()
    runs, rows = Balances(start, budget), []
    todo = cases(args.spread, args.seeds)
    for case in todo[2:3] if args.smoke else todo:
        rows.append(runs.tune(*case))
        write_results(args.json, "Balances on Avoid", {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
