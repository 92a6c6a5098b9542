"""The main job on a physics task: ManiSkill's wall (bring a cube past it left, right or over).

    python benchmarks/maniskill_wall.py --json benchmarks/results/maniskill_wall.json --seeds 0 1

Every line that starts with ``$`` is a command of modereg as a user would type it, run in a process
of its own, on the CPU, one after the other. There is one base policy, cloned from few gradient
steps so that it is mediocre; each seed has its own discovery and fine-tunings, and every method of
a seed spends the same number of environment steps, stage 1 included. A run that is interrupted
goes on when the command is repeated.

Rows: method, seed, episodes, success, entropy (by log 3), present_modes, commandable_modes (all
with sampled noise; ``deterministic_`` by the mean noise), mode_shares among the successes (left,
right, over), env_steps, seconds (wall clock of discovery and fine-tuning with their evaluations),
cpu_seconds (the same in CPU time, with the start of the processes).

- base: the cloned policy.
- plain: one code, no intrinsic reward.
- imitation: stage 1 (clusters and noise imitation), no reinforcement learning.
- codes_only: stage 1, then coefficient 0. regularised: stage 1, then the coefficient below.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modereg.recipes.demo import result_row
from modereg.storage import read_json, write_json

TASK = "maniskill:ModeregWall-v1"
METHODS = ("plain", "regularised", "codes_only")
COEF = 0.3
IMITATION_STEPS, REFINE_STEPS = 150, 40
PPO = {
    "epochs": 8,
    "minibatch": 128,
    "learning-rate": 1e-3,
    "std-learning-rate": 1e-2,
    "decisions": 30,
}
CPU = "cpu_seconds.json"
QUIET = ("--log.no-progress", "--log.no-tensorboard")


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        num_envs: environments side by side in the one process.
        clone_steps: gradient steps of the base.
        demonstrations: episodes of the expert.
        episodes: of the base, that discovery clusters.
        refinements: of the steering policy in discovery.
        refine_episodes: episodes of each.
        env_steps: environment steps of a method in all.
        judged: episodes of the evaluations in the table.
        base_judged: episodes of the base's.
    """

    num_envs: int = 16
    clone_steps: int = 1600
    demonstrations: int = 150
    episodes: int = 400
    refinements: int = 1
    refine_episodes: int = 160
    env_steps: int = 80_000
    judged: int = 128
    base_judged: int = 256


SMOKE = Budget(
    num_envs=2,
    clone_steps=60,
    demonstrations=3,
    episodes=16,
    refinements=1,
    refine_episodes=8,
    env_steps=1_600,
    judged=8,
    base_judged=8,
)


class Commands:
    """The commands of the benchmark and where their results lie."""

    def __init__(self, out: Path, budget: Budget) -> None:
        """Take the folder of all runs and the budget."""
        self.out, self.budget = out, budget
        self.shared = {"task.name": TASK, "task.num-envs": budget.num_envs}
        self.policy = out / "base" / "policy"

    def clone(self) -> None:
        """Clone the base and judge it."""
        budget = self.budget
        run(
            "pretrain",
            self.shared,
            *QUIET,
            out=self.out / "base",
            episodes=budget.demonstrations,
            hidden=(64, 64, 64),
            steps=budget.clone_steps,
            batch=256,
        )
        if not (self.out / "base" / "evaluation.json").exists():
            run(
                "evaluate",
                self.shared,
                base=self.policy,
                out=self.out / "base",
                episodes=budget.base_judged,
            )

    def discover(self, seed: int) -> None:
        """Stage 1: as many codes as the recipe chooses from the cube's paths."""
        budget = self.budget
        run(
            "discover",
            self.shared,
            *QUIET,
            "--resume",
            base=self.policy,
            out=self.folder("discover", seed),
            seed=seed,
            episodes=budget.episodes,
            imitation_steps=IMITATION_STEPS,
            refinements=budget.refinements,
            refine_episodes=budget.refine_episodes,
            refine_steps=REFINE_STEPS,
            std=(0.7, 0.6),
        )

    def finetune(self, method: str, seed: int) -> None:
        """Fine-tune by one method from the base or from stage 1."""
        start = {} if method == "plain" else {"start": self.folder("discover", seed)}
        run(
            "finetune",
            self.shared | {f"ppo.{name}": value for name, value in PPO.items()},
            *QUIET,
            "--resume",
            base=self.policy,
            out=self.folder(method, seed),
            seed=seed,
            coef=COEF if method == "regularised" else 0.0,
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
                    spent = sum(_cpu_seconds(part) for part in [*earlier, folder])
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


def run(command: str, shared: dict[str, Any], *flags: str, **options: Any) -> None:
    """Print and run ``modereg COMMAND --name value ...`` in a process of its own.

    Raises:
        SystemExit: if the command fails.
    """
    named = {name.replace("_", "-"): value for name, value in options.items()} | shared
    arguments = [command]
    for name, value in named.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name}", *map(str, values)]
    arguments += flags
    print("$ modereg", *arguments, flush=True)
    folder = Path(options["out"])
    was_there, before = (folder / "summary.json").exists(), _spent_by_children()
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "modereg.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    if finished.returncode:
        raise SystemExit(finished.returncode)
    if not was_there:
        spent = _cpu_seconds(folder) + _spent_by_children() - before
        write_json(folder / CPU, {"cpu_seconds": round(spent, 1)})


def _spent_by_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _cpu_seconds(folder: Path) -> float:
    there = (folder / CPU).exists()
    return float(read_json(folder / CPU)["cpu_seconds"]) if there else 0.0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| method | seed | success | entropy | present | commandable | shares of left, right, over "
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
        command = (__doc__ or "").splitlines()[2].strip()
        path.with_suffix(".md").write_text(f"`{command}`\n\n{table(rows)}\n")


def main() -> None:
    """Run everything that is not there yet and print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget and one seed")
    args = parser.parse_args()
    name = "maniskill_wall_smoke" if args.smoke else "maniskill_wall"
    commands = Commands(args.out or Path("runs") / name, SMOKE if args.smoke else Budget())
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
