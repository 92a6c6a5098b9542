"""The main job on physics: a task of ManiSkill, at first the wall (past it left, right or over).

    python benchmarks/maniskill_wall.py --json benchmarks/results/maniskill_wall.json --seeds 0 1

Every line that starts with ``$`` is a command of modereg as a user would type it, run in a process
of its own, on the CPU, one after the other. There is one base policy, made by the settings in
``maniskill_bases.py``; each seed has its own discovery and fine-tunings, and every method of a seed
spends the same number of environment steps, stage 1 included. A run that is interrupted goes on
when the command is repeated. ``--task`` takes another task that has a base, such as
``ModeregDiscs-v1``, and ``--env-steps`` and ``--episodes`` another budget.

Rows: method, seed, episodes, success, entropy (by the logarithm of the number of modes),
present_modes, commandable_modes (all with sampled noise; ``deterministic_`` by the mean noise),
mode_shares among the successes (left, right, over), env_steps, seconds (wall clock of discovery and
fine-tuning with their evaluations), cpu_seconds (the same in CPU time, with the start of the
processes).

- base: the cloned policy.
- plain: one code, no intrinsic reward.
- imitation: stage 1 (clusters and noise imitation), no reinforcement learning.
- codes_only: stage 1, then coefficient 0. regularised: stage 1, then the coefficient below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import maniskill_bases
from maniskill_bases import BASES, QUIET
from support.commands import cpu_seconds, run

from modereg.commands.demo import result_row
from modereg.files import read_json, write_json

METHODS = ("plain", "regularised", "codes_only")
COEF = 0.3
IMITATION_STEPS, REFINE_STEPS = 150, 40
PPO = {
    "learner__epochs": 8,
    "learner__minibatch": 128,
    "learner__learning_rate": 1e-3,
    "learner__std_learning_rate": 1e-2,
    "learner__decisions": 30,
}


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        num_envs: environments side by side in the one process.
        episodes: of the base, that discovery clusters.
        refinements: of the steering policy in discovery.
        refine_episodes: episodes of each.
        env_steps: environment steps of a method in all.
        judged: episodes of the evaluations in the table.
    """

    num_envs: int = 16
    episodes: int = 400
    refinements: int = 1
    refine_episodes: int = 160
    env_steps: int = 80_000
    judged: int = 128


SMOKE = Budget(
    num_envs=2,
    episodes=16,
    refinements=1,
    refine_episodes=8,
    env_steps=1_600,
    judged=8,
)


class Commands:
    """The commands of the benchmark and where their results lie."""

    def __init__(self, out: Path, budget: Budget, task: str, base: maniskill_bases.Base) -> None:
        """Take the folder of all runs, the budget, and a task with how its base is made."""
        self.out, self.budget, self.task, self.base = out, budget, task, base
        self.common = {
            "task__name": f"maniskill:{task}",
            "task__num_envs": budget.num_envs,
            "base": out / "base" / "policy",
        }

    def clone(self) -> None:
        """Clone the base and judge it."""
        maniskill_bases.make(self.task, self.base, self.out / "base")

    def discover(self, seed: int) -> None:
        """Stage 1: as many codes as the recipe chooses from the cube's paths."""
        budget = self.budget
        run(
            "discover cluster",
            *QUIET,
            "--resume",
            **self.common,
            out=self.folder("discover", seed),
            seed=seed,
            method__episodes=budget.episodes,
            method__imitation_steps=IMITATION_STEPS,
            method__refinements=budget.refinements,
            method__refine_episodes=budget.refine_episodes,
            method__refine_steps=REFINE_STEPS,
            method__std=(0.7, 0.6),
            final_episodes=budget.refine_episodes,
        )

    def finetune(self, method: str, seed: int) -> None:
        """Fine-tune by one method from the base or from stage 1."""
        start: dict[str, Any] = {}
        command = "finetune" if method == "plain" else "finetune constant"
        flags = [*QUIET, "--resume"]
        if method != "plain":
            coef = COEF if method == "regularised" else 0.0
            start = {"start": self.folder("discover", seed), "balance__coef": coef}
            flags.append("--accept-uncommanded")
        run(
            command,
            *flags,
            **self.common,
            **PPO,
            out=self.folder(method, seed),
            seed=seed,
            env_steps=self.budget.env_steps,
            eval_every=1000,
            final_episodes=self.budget.judged,
            **start,
        )

    def folder(self, name: str, seed: int) -> Path:
        """Where a run lies."""
        return self.out / f"{name}_{seed}"

    def rows(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Return the table, as far as there are results."""
        rows = []
        if (self.out / "base" / "evaluation.json").exists():
            rows.append(self._base_row())
        for seed in seeds:
            start = self.folder("discover", seed)
            for method in ("discover", *METHODS):
                folder = self.folder(method, seed)
                if (folder / "summary.json").exists():
                    earlier = [start] if method not in ("plain", "discover") else []
                    name = "imitation" if method == "discover" else method
                    row = result_row(name, folder, seed, earlier) | _shares(folder)
                    spent = sum(cpu_seconds(part) for part in [*earlier, folder])
                    rows.append(row | {"cpu_seconds": round(spent, 1)})
        return rows

    def _base_row(self) -> dict[str, Any]:
        figures = read_json(self.out / "base" / "evaluation.json")["sampled"]
        names = ("episodes", "success", "success_error", "entropy", "present_modes")
        chosen = {name: figures[name] for name in (*names, "commandable_modes", "mode_shares")}
        nothing = {"seconds": 0.0, "cpu_seconds": 0.0}
        return {"method": "base", "seed": 0, **chosen, "env_steps": 0} | nothing


def _shares(folder: Path) -> dict[str, Any]:
    return {"mode_shares": read_json(folder / "summary.json")["sampled"]["mode_shares"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| method | seed | success | entropy | present | commandable | shares of the modes "
        "| by the mean noise: success, entropy, present, commandable "
        "| env steps | seconds | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = ("success", "entropy", "present_modes", "commandable_modes")
        mean = [_text(row[f"deterministic_{n}"]) for n in names if f"deterministic_{n}" in row]
        lines.append(
            f"| {row['method']} | {row['seed']} "
            f"| {_text(row['success'])} +- {_text(row['success_error'])} "
            f"| {_text(row['entropy'])} | {row['present_modes']} | {row['commandable_modes']} "
            f"| {' / '.join(_text(share, 2) for share in row['mode_shares'])} "
            f"| {', '.join(mean)} "
            f"| {row['env_steps']} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


def _text(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash for one that nothing could be measured for."""
    return "-" if value is None else f"{abs(value):.{digits}f}".removesuffix("." + "0" * digits)


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write the rows, and beside them the same as a table in Markdown with the command."""
    if path is not None:
        write_json(path, {"rows": rows})
        command = f"python {' '.join(sys.argv)}"
        path.with_suffix(".md").write_text(f"`{command}`\n\n{table(rows)}\n")


def main() -> None:
    """Run everything that is not there yet and print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--task", default="ModeregWall-v1", choices=BASES, help="its id")
    parser.add_argument("--env-steps", type=int, help="of each method, in place of the budget's")
    parser.add_argument("--episodes", type=int, help="of the base, that discovery clusters")
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget and one seed")
    args = parser.parse_args()
    budget, base = Budget(), BASES[args.task]
    if args.smoke:
        budget, base = SMOKE, replace(base, **maniskill_bases.SMOKE)
    given = {"env_steps": args.env_steps, "episodes": args.episodes}
    budget = replace(budget, **{name: value for name, value in given.items() if value is not None})
    name = f"maniskill_{args.task.removeprefix('Modereg').removesuffix('-v1').lower()}"
    out = args.out or Path("runs") / (f"{name}_smoke" if args.smoke else name)
    commands = Commands(out, budget, args.task, base)
    seeds = args.seeds[:1] if args.smoke else args.seeds
    commands.clone()
    for seed in seeds:
        commands.discover(seed)
        for method in ("regularised", "plain"):
            commands.finetune(method, seed)
            save(args.json, commands.rows(seeds))
    for seed in [] if args.smoke else seeds:
        commands.finetune("codes_only", seed)
        save(args.json, commands.rows(seeds))
    print(table(commands.rows(seeds)))


if __name__ == "__main__":
    main()
