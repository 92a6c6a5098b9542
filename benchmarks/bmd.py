"""The tasks of BMD's table (arXiv 2605.11387), re-made: its procedure beside modereg's default.

    python benchmarks/bmd.py --json benchmarks/results/bmd.json --seeds 0 1 2

The paper reports six tasks, in simulators and with weights that are not public; here each is a task
of modereg with as many modes, or the nearest there is, and bases that ``modereg pretrain`` clones,
one a seed and task. ``BEDS`` has how each is made and its budget, which is the simulator's cost;
nothing of a method is tuned on a task. Every line that starts with ``$`` is a command as a user
would type it. A run that is interrupted goes on when the command is repeated, and rows that the
file has already are kept.

Tasks: mixture, the paper's two-dimensional Gaussian mixture (4 goals, equal pay), and
mixture_unequal, where the goals pay 1 +- .3; avoid (24 routes, D3IL's obstacles in the plane), and
posts, the same with a Panda in ManiSkill (24); reach (a Panda, 2 sides of an obstacle); lift (a
peg by either end, 2); kitchen (FrankaKitchen, 6 orders of three subtasks).

Methods, one row a task, method and seed:

- base: the cloned policy.
- plain: one code, nothing intrinsic.
- paper: BMD's own procedure, ``discover variational`` (reinforcement learning on the intrinsic
  reward alone, an online q, 16 codes), then ``finetune`` with the weight 1, q still learning.
- stage1: ``discover`` with its defaults, guided by the episodes of the base.
- modereg: the default way, ``finetune`` from stage1 with its defaults.

Each but the base and stage1 may take the same number of environment steps, its stage 1 included
(where that took nearly all of them, ``more`` come after it). The learner is PPO in the plane, and
soft actor-critic where a simulator takes its time, the same for all methods of a task.

Columns: episodes (of sampled noise, that were judged), success, success_error (standard error),
success_by_mode_mean (the paper's SR_M: the mean, over modes with an episode, of successes over the
episodes of that mode; one that fails belongs to a mode once its label is decided, which in the
mixture is never, so it is 1 there), mastered (the paper's mc@0.8: modes with at least .8 of that),
entropy (of the modes among successes, by the logarithm of
their number), return, modes (how many there are), present (at least 1 % of the successes),
commandable (some code reaches it, with success, in at least .8 of its episodes), env_steps and
cpu_seconds (those of stage 1 included, evaluations too, demonstrations and cloning not).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.files import read_json

QUIET = ("--log.no-progress", "--log.no-tensorboard")
METHODS = ("base", "plain", "paper", "stage1", "modereg")
SMOKED = ("base", "paper", "stage1")
ABOUT = ("task", "method", "seed")
FIRST = {"paper": "paper_stage1", "modereg": "stage1"}
"""Where the methods with two stages begin."""


@dataclass(frozen=True)
class Bed:
    """A task, its base and its budget.

    Attributes:
        task: reference to the task.
        modes: how many it has.
        options: of the task.
        pretrain: options of ``modereg pretrain``.
        base: the bed whose base it shares; None makes its own.
        learner: of every fine-tuning.
        env_steps: of a fine-tuning, stage 1 included.
        more: least of them after stage 1.
        discover: options of stage 1.
        variational: options of the paper's stage 1.
        finetune: options of every fine-tuning.
        judged: episodes of every evaluation.
    """

    task: str
    modes: int
    options: tuple[str | float, ...] = ()
    pretrain: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    learner: str = "ppo"
    env_steps: int = 1_000_000
    more: int = 0
    discover: dict[str, Any] = field(default_factory=dict)
    variational: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    judged: int = 4096


SEVERAL: dict[str, Any] = {
    "learner": "sac",
    "env_steps": 60_000,
    "more": 20_000,
    "variational": {
        "method__iterations": 40,
        "method__eval_episodes": 64,
        "method__eval_every": 40,
    },
    "finetune": {"eval_every": 1000},
    "judged": 512,
}
"""What is alike where a Panda is simulated by ManiSkill."""

MIXTURE = {"episodes": 200, "hidden": (64, 64), "steps": 1500}
LONG = SEVERAL | {
    "discover": {
        "num_codes": 8,
        "method__episodes": 896,
        "method__refinements": 2,
        "method__refine_episodes": 96,
    },
    "variational": {"method__iterations": 4, "method__eval_episodes": 32, "method__eval_every": 8},
    "judged": 192,
}
"""The same where an episode takes half a CPU second: fewer of them, everywhere. The number of codes
is given, since discovery takes up to four times as many episodes where it looks for it; it clusters
successes from 200 on, which is what the base shows in so many."""

KITCHEN = {"episodes": 300, "hidden": (256, 256, 256), "steps": 8000}
POSTS = {"episodes": 480, "hidden": (256, 256, 256), "steps": 8000, "batch": 256}
REACH = {"episodes": 100, "hidden": (128, 128, 128), "steps": 1200, "batch": 256}
LIFT = {"episodes": 200, "hidden": (256, 256, 256), "steps": 4000, "batch": 256}
BEDS = {
    "mixture": Bed("task:gaussian_mixture", 4, ("pay_spread", 0.0), MIXTURE),
    "mixture_unequal": Bed("task:gaussian_mixture", 4, ("pay_spread", 0.3), base="mixture"),
    "kitchen": Bed("mujoco:kitchen", 6, pretrain=KITCHEN, **LONG),
    "reach": Bed("maniskill:ModeregReach-v1", 2, pretrain=REACH, **SEVERAL),
    "lift": Bed("maniskill:ModeregLiftPeg-v1", 2, pretrain=LIFT, **SEVERAL),
    "avoid": Bed("task:avoid", 24, env_steps=4_000_000),
    "posts": Bed("maniskill:ModeregPosts24-v1", 24, pretrain=POSTS, **SEVERAL),
}

CLUSTERS = {"method__episodes": 64, "method__refinements": 1, "method__refine_episodes": 48}
STEPS = {f"method__{name}_steps": 20 for name in ("outcome", "guide", "student")}


def smoked(bed: Bed) -> Bed:
    """Return a bed with a tiny budget."""
    return replace(
        bed,
        pretrain={"episodes": 16, "hidden": (16, 16), "steps": 40},
        env_steps=4000,
        more=2000,
        discover=CLUSTERS | STEPS,
        variational={"method__iterations": 1, "num_codes": 4},
        judged=48,
    )


class Session:
    """The commands of one task and seed, and where their results lie.

    Args:
        out: folder of all runs.
        name: of the bed.
        seed: of all runs.
        smoke: whether the budget is tiny.
    """

    def __init__(self, out: Path, name: str, seed: int, smoke: bool) -> None:
        self.bed = smoked(BEDS[name]) if smoke else BEDS[name]
        self.name, self.seed = name, seed
        self.runs = out / f"{name}-{seed}"
        self.cloned = out / f"{self.bed.base or name}-{seed}" / "cloned"
        self.task: dict[str, Any] = {"task__name": self.bed.task}
        if self.bed.options:
            self.task["task__options"] = self.bed.options
        self.common = self.task | {"base": self.cloned / "policy", "seed": seed}

    def clone(self) -> None:
        """Make the base, unless it is there."""
        if not (self.cloned / "summary.json").exists():
            made = (BEDS[self.bed.base] if self.bed.base else self.bed).pretrain
            options = self.task | made | {"out": self.cloned, "seed": self.seed}
            run("pretrain", *QUIET, "--resume", **options)

    def do(self, method: str) -> None:
        """Run one method, unless its results are there."""
        if self.result(method).exists():
            return
        options = self.common | {"out": self.runs / method}
        if method == "base":
            judged = {"episodes": self.bed.judged}
            run("evaluate", "--log.no-progress", **self.task, **judged, base=self.common["base"],
                out=self.runs / method)  # fmt: skip
        elif method == "stage1":
            self._discover("discover", options | self.bed.discover)
        elif method == "paper_stage1":
            self._discover("discover variational", options | self.bed.variational)
        else:
            self._finetune(method, options)

    def _discover(self, command: str, options: dict[str, Any]) -> None:
        judged = {"final_episodes": self.bed.judged}
        run(command, *QUIET, "--no-page", "--resume", **options, **judged)

    def _finetune(self, method: str, options: dict[str, Any]) -> None:
        bed, flags = self.bed, [*QUIET, "--no-page", "--resume"]
        options |= bed.finetune | {"final_episodes": bed.judged, "env_steps": bed.env_steps}
        command = f"finetune {bed.learner}"
        if method in FIRST:
            self.do(FIRST[method])
            start = self.runs / FIRST[method]
            spent = read_json(start / "summary.json")["env_steps"]
            options |= {"start": start, "env_steps": max(bed.env_steps, spent + bed.more)}
            flags.append("--accept-uncommanded")
        if method == "paper":
            command += " constant"
            options["balance__coef"] = 1.0
        run(command, *flags, **options)

    def result(self, method: str) -> Path:
        """Return the file that a method writes at its end."""
        name = "evaluation.json" if method == "base" else "summary.json"
        return self.runs / method / name

    def row(self, method: str) -> dict[str, Any]:
        """Return the row of a method that has ended."""
        summary = read_json(self.result(method))
        figures = summary["sampled"]
        parts = [method, *([FIRST[method]] if method in FIRST else [])]
        spent = sum(cpu_seconds(self.runs / part) for part in parts)
        names = ("success", "success_error", "success_by_mode_mean", "mastered", "entropy")
        keys = ("success", "success_error", "mean_mode_success", "mastered_modes", "entropy")
        return {
            "task": self.name,
            "method": method,
            "seed": self.seed,
            "episodes": figures["episodes"],
            **{name: _rounded(figures[key]) for name, key in zip(names, keys)},
            "return": _rounded(figures["mean_return"]),
            "modes": self.bed.modes,
            "present": figures["present_modes"],
            "commandable": figures["commandable_modes"],
            "env_steps": summary.get("env_steps", 0),
            "cpu_seconds": round(spent, 1),
        }


def _rounded(value: float) -> float:
    return round(value, 4) if isinstance(value, float) else value


Row = dict[str, Any]


def _identity(row: Row) -> tuple[int, int, int]:
    """Return a row's place in the table, which no other row has."""
    return list(BEDS).index(row["task"]), row["seed"], METHODS.index(row["method"])


def kept_rows(path: Path | None) -> dict[tuple[int, int, int], Row]:
    """Return the rows that a file has already, by their place."""
    if path is None or not path.exists():
        return {}
    return {_identity(row): row for row in read_json(path)["rows"]}


def main() -> None:
    """Run everything that is not there yet, and write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(BEDS), choices=list(BEDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny budget, one task, some methods"
    )
    args = parser.parse_args()
    out = args.out or Path("runs") / ("bmd_smoke" if args.smoke else "bmd")
    tasks, seeds = (args.tasks[:1], args.seeds[:1]) if args.smoke else (args.tasks, args.seeds)
    rows = {} if args.smoke else kept_rows(args.json)
    for task in tasks:
        for seed in seeds:
            session = Session(out.resolve(), task, seed, args.smoke)
            session.clone()
            for method in SMOKED if args.smoke else args.methods:
                session.do(method)
                row = session.row(method)
                print(row, flush=True)
                rows[_identity(row)] = row
                table = [rows[place] for place in sorted(rows)]
                write_results(args.json, "The tasks of BMD's table", {"rows": table})


if __name__ == "__main__":
    main()
