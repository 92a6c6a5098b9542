"""The main job on a vision-language-action policy: a small PI0 that sees, is told, and acts.

    python benchmarks/pi0_finetune.py --json benchmarks/results/pi0_finetune.json --seeds 0 1

The task is ``task:visual_avoid``: past three posts, by one of six routes that pay differently (.7
to 1.3), to the disc that an instruction names and an image shows. The base is a PI0 of transformers
with 92 000 parameters, cloned from scripted demonstrations by its own flow-matching loss. Every
line that starts with ``$`` is a command of modereg as a user would type it, run in a process of its
own, on one thread, one after the other; each seed has its own discovery and fine-tunings, and every
method of a seed spends the same number of environment steps, stage 1 included. A run that is
interrupted goes on when the command is repeated.

Rows: method, seed, success, return, entropy (by log 6), present and commandable modes (all with
sampled noise; ``mean_`` by the mean noise), shares of the modes among the successes, env_steps, and
cpu_seconds (with the start of the processes; that of a method counts its stage 1, and that of the
base its cloning).

- base: the cloned policy.
- plain: one code, no intrinsic reward.
- imitation: stage 1 (clusters and noise imitation), no reinforcement learning.
- codes_only, regularised, strongly_regularised: stage 1, then the intrinsic reward with a
  coefficient of 0, .3 and 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.files import read_json

TASK = "task:visual_avoid"
COEFS = {"plain": 0.0, "regularised": 0.3, "strongly_regularised": 1.0, "codes_only": 0.0}
CODES = 12
QUIET = ("--log.no-progress", "--log.no-tensorboard", "--resume")
PPO = {
    "learner__minibatch": 256,
    "learner__learning_rate": 1e-3,
    "learner__std_learning_rate": 1e-2,
}
METHODS = ("imitation", *COEFS)


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        clone_steps: gradient steps of the base.
        demonstrations: episodes of the expert.
        episodes: of the base, that discovery clusters.
        imitation_steps: gradient steps of discovery's first fit.
        refinements: of the steering policy in discovery.
        refine_episodes: episodes of each.
        refine_steps: gradient steps of each.
        env_steps: environment steps of a method in all.
        judged: episodes of the evaluations in the table.
        num_envs: environments in a batch.
    """

    clone_steps: int = 1200
    demonstrations: int = 600
    episodes: int = 2048
    imitation_steps: int = 500
    refinements: int = 4
    refine_episodes: int = 768
    refine_steps: int = 200
    env_steps: int = 500_000
    judged: int = 1024
    num_envs: int = 256


SMOKE = Budget(
    clone_steps=20,
    demonstrations=12,
    episodes=48,
    imitation_steps=20,
    refinements=1,
    refine_episodes=24,
    refine_steps=10,
    env_steps=6_000,
    judged=24,
    num_envs=24,
)


class Commands:
    """The commands of the benchmark and where their results lie."""

    def __init__(self, out: Path, budget: Budget) -> None:
        """Take the folder of all runs and the budget."""
        self.out, self.budget = out, budget
        self.task = {"task__name": TASK, "task__num_envs": budget.num_envs}
        self.common = {**self.task, "base": out / "base" / "policy"}

    def clone(self) -> None:
        """Clone the base, with more demonstrations of the two routes that cross, and judge it."""
        run(
            "pretrain",
            *QUIET,
            **self.task,
            library="transformers",
            method="flow",
            hidden=(32, 32),
            inference_steps=4,
            episodes=self.budget.demonstrations,
            shares=(1, 1, 2, 2, 1, 1),
            steps=self.budget.clone_steps,
            batch=64,
            learning_rate=3e-3,
            ema=0.995,
            out=self.out / "base",
        )
        if not (self.out / "base" / "evaluation.json").exists():
            run("evaluate", **self.common, episodes=self.budget.judged, out=self.out / "base")

    def discover(self, seed: int) -> None:
        """Stage 1."""
        run(
            "discover cluster",
            *QUIET,
            **self.common,
            num_codes=CODES,
            method__episodes=self.budget.episodes,
            method__imitation_steps=self.budget.imitation_steps,
            method__refinements=self.budget.refinements,
            method__refine_episodes=self.budget.refine_episodes,
            method__refine_steps=self.budget.refine_steps,
            final_episodes=self.budget.refine_episodes,
            seed=seed,
            out=self.folder("imitation", seed),
        )

    def finetune(self, method: str, seed: int) -> None:
        """Fine-tune by one method, from the base or from stage 1."""
        start: dict[str, Any] = {}
        command = "finetune" if method == "plain" else "finetune constant"
        flags = [*QUIET]
        if method != "plain":
            start = {"start": self.folder("imitation", seed), "balance__coef": COEFS[method]}
            flags.append("--accept-uncommanded")
        run(
            command,
            *flags,
            **self.common,
            **start,
            **PPO,
            env_steps=self.budget.env_steps,
            eval_every=1000,
            final_episodes=self.budget.judged,
            seed=seed,
            out=self.folder(method, seed),
        )

    def folder(self, name: str, seed: int) -> Path:
        """Where a run lies."""
        return self.out / f"{name}_{seed}"

    def rows(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Return the table, as far as there are results."""
        base = self.out / "base"
        figures = read_json(base / "evaluation.json")
        cost = {"env_steps": 0, "cpu_seconds": cpu_seconds(base)}
        rows = [{"method": "base", "seed": 0} | _figures(figures["sampled"]) | cost]
        for seed in seeds:
            stage_1 = self.folder("imitation", seed)
            for method in METHODS:
                folder = self.folder(method, seed)
                if not (folder / "summary.json").exists():
                    continue
                summary, spent = read_json(folder / "summary.json"), cpu_seconds(folder)
                if method not in ("plain", "imitation"):
                    spent += cpu_seconds(stage_1)
                row = {"method": method, "seed": seed} | _figures(summary["sampled"])
                if "deterministic" in summary:
                    mean = _figures(summary["deterministic"])
                    row |= {f"mean_{name}": mean[name] for name in ("success", "present")}
                cost = {"env_steps": summary["env_steps"], "cpu_seconds": round(spent, 1)}
                rows.append(row | cost)
        return rows


def _figures(judged: dict[str, Any]) -> dict[str, Any]:
    """Return a row's figures; without a success there is neither entropy nor a share."""
    shares = " ".join(f"{share:.2f}" for share in judged["mode_shares"] or [])
    entropy = judged["entropy"]
    return {
        "success": judged["success"],
        "return": judged["mean_return"],
        "entropy": None if entropy is None else abs(entropy),
        "present": judged["present_modes"],
        "commandable": judged["commandable_modes"],
        "shares": shares,
    }


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Write the table as far as it goes."""
    write_results(path, "A small PI0 with its modes kept", {"rows": rows})


def main() -> None:
    """Run everything that is not there yet, and write the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget and one seed")
    args = parser.parse_args()
    name = "pi0_finetune_smoke" if args.smoke else "pi0_finetune"
    commands = Commands(args.out or Path("runs") / name, SMOKE if args.smoke else Budget())
    seeds = args.seeds[:1] if args.smoke else args.seeds
    commands.clone()
    for seed in seeds:
        commands.discover(seed)
        for method in ("plain", "regularised") if args.smoke else COEFS:
            commands.finetune(method, seed)
            save(args.json, commands.rows(seeds))
    for row in commands.rows(seeds):
        print(row)


if __name__ == "__main__":
    main()
