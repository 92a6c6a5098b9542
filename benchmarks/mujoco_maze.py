"""The main job on dynamics of MuJoCo: a ball with inertia in a maze with six routes to its goal.

    python benchmarks/mujoco_maze.py --json benchmarks/results/mujoco_maze.json --seeds 0 1 2

Every line that starts with ``$`` is a command of modereg as a user would type it, run in a process
of its own, one after the other. Each seed has a base of its own, cloned from few gradient steps so
that it is mediocre. The routes pay 1 +- .3, and every method of a seed spends the same number of
environment steps, stage 1 included. A run that is interrupted goes on when the command is repeated.

Rows: method, seed, pay_spread, episodes, success, success_error (its standard error), entropy (by
log 6), present_modes, commandable_modes (all with sampled noise; ``deterministic_`` by the mean
noise), mode_shares among the successes, env_steps, seconds (wall clock) and cpu_seconds (with the
start of the processes) of discovery and fine-tuning with their evaluations; for the base, those of
demonstrations and cloning. The machine was shared, so CPU seconds are what to compare.

- base: the cloned policy.
- imitation: stage 1 (clusters and noise imitation), no reinforcement learning.
- plain: one code, no intrinsic reward.
- codes_only: stage 1, then coefficient 0. regularised: stage 1, then the coefficient below.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run
from support.seeds import write_seeds_table

from modereg.commands.demo import result_row
from modereg.files import read_json, write_json

TASK = "mujoco:point_maze"
PAY_SPREAD = 0.3
METHODS = ("plain", "codes_only", "regularised")
COEF = 0.3
PPO = {
    "learner__learning_rate": 1e-4,
    "learner__std_learning_rate": 1e-2,
    "learner__kl_coef": 1e-3,
}
QUIET = ("--log.no-progress", "--log.no-tensorboard")
NAMES = ("episodes", "success", "success_error", "entropy", "present_modes", "commandable_modes")


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        demonstrations: episodes of the expert.
        clone_steps: gradient steps of the base.
        episodes: of the base, that discovery clusters.
        imitation_steps: gradient steps of the steering policy in discovery.
        refinements: of the steering policy in discovery.
        refine_episodes: episodes of each.
        env_steps: environment steps of a method in all.
        judged: episodes of the evaluations in the table.
    """

    demonstrations: int = 300
    clone_steps: int = 3000
    episodes: int = 4096
    imitation_steps: int = 1500
    refinements: int = 2
    refine_episodes: int = 1536
    env_steps: int = 3_000_000
    judged: int = 2048


SMOKE = Budget(
    demonstrations=12,
    clone_steps=30,
    episodes=256,
    imitation_steps=30,
    refinements=1,
    refine_episodes=256,
    env_steps=90_000,
    judged=256,
)


class Commands:
    """The commands of one seed and where their results lie.

    Args:
        out: folder of the seed's runs.
        seed: of all of them.
        budget: how much of everything.
    """

    def __init__(self, out: Path, seed: int, budget: Budget) -> None:
        self.out, self.seed, self.budget = out, seed, budget
        self.base = out / "base"
        self.common = {"task__name": TASK, "seed": seed}
        self.steered = self.common | {"base": self.base / "policy"}

    def clone(self) -> None:
        """Clone the base and judge it."""
        budget = self.budget
        run(
            "pretrain",
            *QUIET,
            "--resume",
            **self.common,
            out=self.base,
            episodes=budget.demonstrations,
            steps=budget.clone_steps,
            batch=256,
        )
        judged = {"task__name": TASK, "base": self.base / "policy", "episodes": budget.judged}
        if not (self.base / "evaluation.json").exists():
            run("evaluate", out=self.base, **judged)

    def discover(self) -> None:
        """Stage 1: as many codes as the recipe chooses from the ball's paths."""
        budget = self.budget
        run(
            "discover cluster",
            *QUIET,
            "--resume",
            **self.steered,
            out=self.out / "discover",
            method__episodes=budget.episodes,
            method__imitation_steps=budget.imitation_steps,
            method__refinements=budget.refinements,
            method__refine_episodes=budget.refine_episodes,
            final_episodes=budget.refine_episodes,
        )

    def finetune(self, method: str) -> None:
        """Fine-tune by one method from the base or from stage 1."""
        start: dict[str, Any] = {}
        command = "finetune" if method == "plain" else "finetune constant"
        flags = [*QUIET, "--resume"]
        if method != "plain":
            coef = COEF if method == "regularised" else 0.0
            start = {"start": self.out / "discover", "balance__coef": coef}
            flags.append("--accept-uncommanded")
        run(
            command,
            *flags,
            **self.steered,
            **start,
            **PPO,
            out=self.out / method,
            env_steps=self.budget.env_steps,
            eval_every=1000,
            final_episodes=self.budget.judged,
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table, as far as there are results."""
        rows = [self._base_row()] if (self.base / "evaluation.json").exists() else []
        for method in ("discover", *METHODS):
            if (self.out / method / "summary.json").exists():
                rows.append(self._row(method))
        return [{"pay_spread": PAY_SPREAD} | row for row in rows]

    def _row(self, method: str) -> dict[str, Any]:
        folder, earlier = self.out / method, []
        if method not in ("plain", "discover"):
            earlier = [self.out / "discover"]
        name = "imitation" if method == "discover" else method
        shares = read_json(folder / "summary.json")["sampled"]["mode_shares"]
        spent = sum(cpu_seconds(part) for part in [*earlier, folder])
        more = {"mode_shares": shares, "cpu_seconds": round(spent, 1)}
        return result_row(name, folder, self.seed, earlier) | more

    def _base_row(self) -> dict[str, Any]:
        figures = read_json(self.base / "evaluation.json")["sampled"]
        seconds = read_json(self.base / "timing.json")["seconds"]
        return {
            "method": "base",
            "seed": self.seed,
            **{name: figures[name] for name in (*NAMES, "mode_shares")},
            "env_steps": 0,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds(self.base),
        }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, success with its 95 % interval by the normal law."""
    lines = [
        "| method | seed | success | entropy | present | commandable | shares of the routes "
        "| success, mean noise | env steps | seconds | CPU seconds |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        mean = row.get("deterministic_success")
        cells = [
            row["method"],
            row["seed"],
            f"{row['success']:.3f} +- {1.96 * row['success_error']:.3f}",
            f"{row['entropy']:.3f}",
            row["present_modes"],
            row["commandable_modes"],
            " / ".join(f"{share:.2f}" for share in row["mode_shares"]),
            "" if mean is None else f"{mean:.3f}",
            f"{row['env_steps']:,}",
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write the rows, and beside them means over seeds and each run as tables in Markdown."""
    if path is None or not rows:
        return
    write_json(path, {"rows": rows})
    write_seeds_table(path, "The main job in a maze of MuJoCo, six routes", rows)
    page = path.with_suffix(".md")
    page.write_text(f"{page.read_text()}\nEach run:\n\n{table(rows)}\n")


def main() -> None:
    """Run everything that is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget and one seed")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("mujoco_maze_smoke" if args.smoke else "mujoco_maze")
    seeds = args.seeds[:1] if args.smoke else args.seeds
    budget = SMOKE if args.smoke else Budget()
    commands = [Commands(out / f"seed{seed}", seed, budget) for seed in seeds]
    for of_seed in commands:
        of_seed.clone()
        of_seed.discover()
        for method in ("regularised", "plain"):
            of_seed.finetune(method)
            save(args.json, [row for each in commands for row in each.rows()])
    for of_seed in [] if args.smoke else commands:
        of_seed.finetune("codes_only")
        save(args.json, [row for each in commands for row in each.rows()])
    print(table([row for each in commands for row in each.rows()]))


if __name__ == "__main__":
    main()
