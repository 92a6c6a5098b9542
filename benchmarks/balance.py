"""Balances on Avoid: what each keeps, and whether that hangs on the unit of the reward.

    python benchmarks/balance.py --json benchmarks/results/balance.json

Soft actor-critic goes on from one stage 1, that of ``benchmarks/finetuners.py``, where routes pay
1 +- .3 or 1 +- .5, times a scale. The balances are those of ``modereg finetune sac BALANCE``, with
their own defaults, beside two of the benchmark: ``none`` pays nothing intrinsic, and ``fixed`` is a
constant in the unit of the reward, .3 over the scale, as if returns were not divided by their size.
A run that is interrupted goes on when the command is repeated.

Rows: pay (the spread), scale, balance, seed, success, return (over the scale), entropy (by log 24),
modes, present, commandable, return_scale and coef, coef_min and coef_max at the end, env_steps
(those of stage 1 included) and cpu_seconds (of the run alone).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from finetuners import MODES, QUIET, SMOKE, Budget, Seed
from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.files import read_json
from modereg.recipes.config import FinetuneConfig

ENV_STEPS = 300_000
"""Environment steps after stage 1."""

RULES = ("constant", "schedule", "gate", "multiplier", "bound")
DEFAULT = FinetuneConfig().balance.name
KEPT = ("return_scale", "coef", "coef_min", "coef_max")


def cases(spreads: list[float]) -> list[tuple[float, float, str]]:
    """Return spread, scale and balance of each run, what decides first."""
    alike = [(spread, 1.0, rule) for spread in spreads for rule in ("none", *RULES)]
    scales = (10.0, 0.1)
    scaled = [(pay, by, rule) for pay in spreads for by in scales for rule in ("fixed", DEFAULT)]
    return alike + scaled


class Balances:
    """The runs from one stage 1.

    Args:
        seed: which has a base and a stage 1.
        budget: how much of everything.
    """

    def __init__(self, seed: Seed, budget: Budget) -> None:
        self.seed, self.budget = seed, budget

    def tune(self, spread: float, scale: float, balance: str) -> dict[str, Any]:
        """Fine-tune, unless that is done, and return the row."""
        stage1, out = self.seed.out / "stage1", self.seed.out / f"{balance}_{spread}_{scale}"
        if not (out / "summary.json").exists():
            rule = balance if balance in RULES else "constant"
            coef = {"none": 0.0, "fixed": 0.3 / scale}.get(balance)
            chosen = {} if coef is None else {"balance__coef": coef}
            options = ("pay_spread", spread, "scale", scale)
            run(
                f"finetune sac {rule}",
                *QUIET,
                "--accept-uncommanded",
                cwd=Path(__file__).parent,
                task__name="support.scaled_avoid:scaled_avoid",
                task__num_envs=512,
                task__options=options,
                base=self.seed.out / "base" / "policy",
                start=stage1,
                out=out,
                seed=self.seed.seed,
                env_steps=read_json(stage1 / "summary.json")["env_steps"]
                + int(self.budget.share * ENV_STEPS),
                eval_every=10,
                eval_episodes=min(512, self.budget.judged),
                final_episodes=self.budget.judged,
                **chosen,
                **self.budget.learners.get("sac", {}),
            )
        return self._row(out, spread, scale, balance)

    def _row(self, out: Path, spread: float, scale: float, balance: str) -> dict[str, Any]:
        summary = read_json(out / "summary.json")
        figures = summary["sampled"]
        with (out / "curves.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        return {
            "pay": f"1 +- {spread}",
            "scale": scale,
            "balance": balance,
            "seed": self.seed.seed,
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny budget, one run of each balance"
    )
    args = parser.parse_args()
    out = args.out or Path("runs") / ("balance_smoke" if args.smoke else "balance")
    budget = SMOKE if args.smoke else Budget(judged=2048)
    seed = Seed((out / f"seed{args.seed}").resolve(), args.seed, budget)
    seed.begin()
    runs, rows = Balances(seed, budget), []
    todo = cases(args.spreads)
    for case in todo[: 1 + len(RULES)] if args.smoke else todo:
        rows.append(runs.tune(*case))
        write_results(args.json, "Balances on Avoid", {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
