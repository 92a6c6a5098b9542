"""Fine-tuners on Avoid, plain, with modereg, and by other ways to keep behaviours.

    python benchmarks/finetuners.py --json benchmarks/results/finetuners.json --seeds 0 1 2

Everything but what a method says and the number of steps is as the commands have it by default;
each seed has a base and a stage 1 of its own. A run that is interrupted goes on when the command is
repeated. Methods, each judged as the others are:

- base: as it was cloned. plain: one code, nothing intrinsic. modereg: from stage 1.
- kl: plain, with a KL to N(0, I) of weight .1, for PPO beside advantages of standard deviation 1,
  for the others beside returns of mean size 1. It is the maximum-entropy objective relative to the
  base: KL(psi || N(0, I)) is minus the entropy of psi plus E|w|^2 / 2.
- trust: plain, with a KL to N(0, I) of 1 nat, whose weight finds itself (LP-DS, arXiv 2606.01151).
- ips: plain, with returns divided by the probability of their outcome, which stage 1's q tells; so
  stage 1's steps count (IPS, arXiv 2601.21669; support/inverse_probability.py).
- ticket: one constant noise, the best of many (arXiv 2603.15757; support/golden_ticket.py).
- matching: groups of rollouts from one start become as likely as they pay (Uni-TMPO, arXiv
  2609.34688; support/group_matching.py), in 64 environments, so that 8 rollouts are a batch.

Rows: task (with the spread of what the routes pay), learner, method, balance, seed, success,
return, entropy (by log 24), modes, present, commandable, replanned (success within three tries of
codes where a route is blocked and nobody knows which, of the worst route), env_steps (those of
stage 1 included where it is used), steps_to_90, steps_to_95 (the first evaluation of 512 episodes
with as much success; for modereg stage 1's end counts as one; null where it was never seen),
area_steps and area_cpu (mean success over the first million environment steps, or 200 CPU seconds,
which are spread evenly over a run's steps; while stage 1 runs it is the base's, and after the end
it stays) and cpu_seconds (stage 1's included where it is used, evaluations too). The picture beside
the table has an arrow from the base to each result.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.arrows import write_arrows
from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.aggregates import area_under_curve
from modereg.files import read_json
from modereg.metrics import replanned_success, success_table

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
    "qf3": Learner(300_000, 300_000, 5),
    "resip": Learner(1_000_000, 500_000, 2),
    "resfit": Learner(300_000, 150_000, 10),
    "ticket": Learner(2_000_000, 0, 2),
    "matching": Learner(2_000_000, 0, 4),
}


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        learners: that it is for, and what ``finetune`` calls each then.
        options: more of ``finetune``.
        uses: ``start`` or ``outcomes``, the option that takes stage 1; None for neither.
    """

    learners: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    uses: str | None = None


ACTORS = {
    name: name for name in ("ppo", "sac", "dsrl", "residual", "dppo", "qf3", "resip", "resfit")
}
METHODS = {
    "plain": Method(ACTORS),
    "modereg": Method(ACTORS, uses="start"),
    "kl": Method({name: name for name in ("ppo", "sac", "dsrl")}, {"learner__kl_coef": 0.1}),
    "trust": Method({name: name for name in ("sac", "dsrl")}, {"learner__kl_target": 1.0}),
    "ips": Method({"ppo": "ppo_ips", "sac": "sac_ips"}, uses="learner__outcomes"),
    "ticket": Method({"ticket": "ticket"}),
    "matching": Method({"matching": "matching"}, {"task__num_envs": 64}),
}
AREA_STEPS, AREA_SECONDS = 1_000_000, 200.0
FEW = {"learner__prefill": 1024, "learner__updates": 0.02}


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
    dict.fromkeys(("sac", "dsrl", "residual", "qf3", "resfit"), FEW)
    | {"matching": {"learner__group": 2}},
)
SMOKES = (("dsrl", "modereg"), ("ppo", "ips"), ("ticket", "ticket"))


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

    def judge_base(self) -> dict[str, Any]:
        """Return the figures of the base, judged unless that is done."""
        out = self.out / "judged_base"
        if not (out / "evaluation.json").exists():
            run(
                "evaluate",
                QUIET[0],
                **self._common(SPREADS[0]),
                base=self.out / "base" / "policy",
                out=out,
                episodes=self.budget.judged,
            )
        return read_json(out / "evaluation.json")["sampled"]

    def base_row(self) -> dict[str, Any]:
        """Return the row of the base."""
        about = {"task": f"avoid, pay +- {SPREADS[0]}", "learner": None, "method": "base"}
        figures = final_figures({"sampled": self.judge_base()})
        return about | {"balance": None, "seed": self.seed} | figures | {"env_steps": 0}

    def tune(self, learner: str, method: str, spread: float) -> dict[str, Any]:
        """Fine-tune, unless that is done, and return the row."""
        out, chosen = self.out / f"{learner}_{method}_{spread}", METHODS[method]
        stage1, length = self.out / "stage1", LEARNERS[learner]
        starts = chosen.uses == "start"
        begun = read_json(stage1 / "summary.json")["env_steps"] if chosen.uses else 0
        steps = int(self.budget.share * (length.more if starts else length.plain))
        if not (out / "summary.json").exists():
            options = self._common(spread) | {"base": self.out / "base" / "policy"}
            options |= self.budget.learners.get(learner, {}) | chosen.options
            options |= {chosen.uses: stage1} if chosen.uses else {}
            run(
                f"finetune {chosen.learners[learner]}",
                *QUIET,
                *(["--accept-uncommanded"] if starts else []),
                cwd=Path(__file__).parent,  # where the rivals are registered
                **options,
                out=out,
                env_steps=steps + (begun if starts else 0),
                eval_every=length.eval_every,
                eval_episodes=min(512, self.budget.judged),
                final_episodes=self.budget.judged,
            )
        about = {"task": f"avoid, pay +- {spread}", "learner": learner, "method": method}
        balance = "constant" if starts else None
        row = about | {"balance": balance, "seed": self.seed}
        return row | self._figures(out, begun, starts=starts)

    def _figures(self, out: Path, begun: int, *, starts: bool) -> dict[str, Any]:
        """Return the figures of a run.

        Args:
            out: its folder.
            begun: environment steps of stage 1, where it used that.
            starts: whether it began with what stage 1 gave.
        """
        summary, stage1 = read_json(out / "summary.json"), self.out / "stage1"
        shift = 0 if starts else begun  # a run that starts from stage 1 counts its steps itself
        total, spent = summary["env_steps"] + shift, cpu_seconds(out)
        before = cpu_seconds(stage1) if begun else 0.0
        seen = [(begun, read_json(stage1 / "summary.json")["sampled"]["success"])] * starts
        seen += [(steps + shift, found) for steps, found in judged(out)]
        base = self.judge_base()["success"]
        at, found = zip((0, base), *[(begun, base)] * bool(begun), *seen)
        seconds = np.interp(at, [0, begun, total], [0.0, before, before + spent])
        return final_figures(summary) | {
            "env_steps": total,
            "steps_to_90": steps_to(0.9, seen),
            "steps_to_95": steps_to(0.95, seen),
            "area_steps": round(area_under_curve(at, found, until=AREA_STEPS), 4),
            "area_cpu": round(area_under_curve(seconds, found, until=AREA_SECONDS), 4),
            "cpu_seconds": round(before + spent, 1),
        }


def final_figures(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a run ended with."""
    figures = summary["sampled"]
    names = {"success": "success", "return": "mean_return", "entropy": "entropy"}
    return {
        **{short: round(figures[name], 4) for short, name in names.items()},
        "modes": MODES,
        "present": figures["present_modes"],
        "commandable": figures["commandable_modes"],
        "replanned": round(float(replanned_success(success_table(figures), tries=3).min()), 4),
    }


def judged(folder: Path) -> list[tuple[int, float]]:
    """Return environment steps and success of the evaluations of a run."""
    with (folder / "curves.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("success")]
    return [(int(float(row["env_steps"])), float(row["success"])) for row in rows]


def steps_to(success: float, curve: list[tuple[int, float]]) -> int | None:
    """Return the environment steps at the first evaluation with so much success, or None."""
    return next((steps for steps, found in curve if found >= success), None)


def main() -> None:
    """Run everything that is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spreads", type=float, nargs="+", default=list(SPREADS))
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, three rows")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("finetuners_smoke" if args.smoke else "finetuners")
    seeds, spreads = (
        (args.seeds[:1], args.spreads[:1]) if args.smoke else (args.seeds, args.spreads)
    )
    wanted = [(name, way) for name in args.learners for way in args.methods]
    pairs = SMOKES if args.smoke else [(n, way) for n, way in wanted if n in METHODS[way].learners]
    rows: list[dict[str, Any]] = []
    for number in seeds:
        seed = Seed((out / f"seed{number}").resolve(), number, SMOKE if args.smoke else Budget())
        seed.begin()
        rows.append(seed.base_row())
        for spread in spreads:
            for learner, method in pairs:
                rows.append(seed.tune(learner, method, spread))
                write_results(args.json, "Fine-tuners on Avoid", {"rows": rows})
    if args.json is not None:
        write_arrows(args.json.with_suffix(".png"), rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
