"""What each part is for: the main job on Avoid without it, over several seeds.

    python benchmarks/ablations.py --json benchmarks/results/ablations.json --seeds 0 1 2

Each seed clones a base of its own, so that demonstrations, base, discovery and reinforcement
learning all differ. Every method of a seed starts from the same base and spends the same number of
environment steps, stage 1 included; only ``bmd`` is given twice as many, half of them for its
stage 1. A run that is interrupted goes on when the command is repeated.

Rows: method, pay_spread, seed, episodes, success, entropy (by log 24), present_modes,
commandable_modes (sampled noise; ``deterministic_`` by the mean noise), env_steps, seconds.

- base: the cloned policy.
- plain: one code, no intrinsic reward. ``plain kl C``: the same with KL to N(0, I) weighted by C.
- imitation: stage 1 (clusters and noise imitation), no reinforcement learning.
- codes_only: stage 1, then coefficient 0. regularised: stage 1, then coefficient .3.
- online q: regularised, but q keeps learning in stage 2.
- no start: the frozen q of stage 1 pays, but the steering policy begins at the base.
- no stage 1: the paper's reward beside the task's from nothing, q online, 16 codes.
- bmd K: the paper's procedure (arXiv 2605.11387): stage 1 by PPO on the intrinsic reward with an
  online q, stage 2 with coefficient 1 and q still learning.
- (skewed): a base cloned from 250 demonstrations of very unequal modes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from support.seeds import write_seeds_table
from support.skewed_avoid import SKEWED

from modereg.balances.config import ConstantConfig
from modereg.commands.demo import result_row
from modereg.commands.workers import Job, run_jobs
from modereg.files import read_json, write_json
from modereg.learners.config import PPOConfig
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
    VariationalConfig,
)
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune, pretrain

QUIET = LogConfig(progress=False, tensorboard=False)
FIGURES = ("success", "success_error", "entropy", "present_modes", "commandable_modes")


class Ablations:
    """The jobs of one seed, and where their results lie."""

    def __init__(self, out: Path, seed: int, scale: float) -> None:
        """Take the folder of the seed's runs and a factor on every budget."""
        self.out, self.seed, self.scale = out, seed, scale
        self.rows: list[tuple[str, float, Path, list[Path]]] = []

    def stages(self) -> list[list[Job]]:
        """Return the jobs, by the order of their dependence."""
        clones = [self.clone("base"), self.clone("skewed", episodes=250, shares=SKEWED)]
        first = [
            self.find("discover", "base"),
            self.find("discover_skewed", "skewed"),
            *(self.tune("plain", "base", spread=spread) for spread in (0.0, 0.3, 0.5)),
            *(self.tune(f"plain kl {kl}", "base", kl=kl) for kl in (0.03, 0.1, 0.3)),
            self.tune("plain (skewed)", "skewed"),
            self.tune("no stage 1", "base", coef=1.0, num_codes=16),
            *(self.find(f"bmd_start_{k}", "base", "variational", k) for k in (8, 16, 32)),
        ]
        second = [
            *(
                self.tune(method, "base", "discover", spread=spread, coef=coef)
                for spread in (0.0, 0.3, 0.5)
                for method, coef in (("codes_only", 0.0), ("regularised", 0.3))
            ),
            self.tune("online q", "base", "discover", coef=0.3, discoverer="online"),
            self.tune("no start", "base", "discover", coef=0.3, regulariser="scratch"),
            self.tune("codes_only (skewed)", "skewed", "discover_skewed", coef=0.0),
            self.tune("regularised (skewed)", "skewed", "discover_skewed", coef=0.3),
            *(
                self.tune(f"bmd {k}", "base", f"bmd_start_{k}", coef=1.0, factor=2.0)
                for k in (8, 16, 32)
            ),
        ]
        judged = [self.judge("base"), self.judge("skewed")]
        return [clones, judged + first, second]

    def smoke(self) -> list[list[Job]]:
        """Return one job of each kind."""
        clones = [self.clone("base"), self.clone("skewed", episodes=250, shares=SKEWED)]
        first = [self.find("discover", "base"), self.find("bmd_start", "base", "variational", 4)]
        second = [
            self.tune("plain", "base", kl=0.03),
            self.tune("online q", "base", "discover", coef=0.3, discoverer="online"),
        ]
        return [clones, [*first, self.judge("base"), self.judge("skewed")], second]

    def task(self, spread: float) -> TaskConfig:
        """Return Avoid at a spread of pay."""
        return TaskConfig("task:avoid", {"pay_spread": spread}, num_envs=512)

    def policy(self, name: str) -> str:
        """Return the folder of a cloned policy."""
        return str(self.out / name / "policy")

    def clone(self, name: str, **options: Any) -> Job:
        """Clone a base."""
        steps = max(int(6000 * self.scale), 200)
        config = PretrainConfig(
            out=self.out / name,
            task=self.task(0.3),
            seed=self.seed,
            steps=steps,
            log=QUIET,
            **options,
        )
        return f"{self.seed} {name}", pretrain, config

    def judge(self, name: str) -> Job:
        """Evaluate a base."""
        config = EvaluateConfig(
            base=self.policy(name),
            out=self.out / name,
            task=self.task(0.3),
            episodes=self.episodes(4096),
        )
        return f"{self.seed} judge {name}", evaluate, config

    def episodes(self, count: int) -> int:
        """Scale a number of episodes."""
        return max(int(count * self.scale), 512)

    def find(
        self, name: str, base: str, method: str = "cluster", num_codes: int | None = None
    ) -> Job:
        """Run stage 1."""
        config = DiscoverConfig(
            base=self.policy(base),
            out=self.out / name,
            task=self.task(0.3),
            method=self.method(method),
            num_codes=num_codes,
            final_episodes=self.episodes(4096),
            seed=self.seed,
            log=QUIET,
            resume=True,
        )
        if method == "cluster":
            label = "imitation" if base == "base" else "imitation (skewed)"
            self.rows.append((label, 0.3, self.out / name, []))
        return f"{self.seed} {name}", discover, config

    def method(self, name: str) -> ClusterConfig | VariationalConfig:
        """Return a method of stage 1 with its budget scaled."""
        if name == "variational":
            return VariationalConfig(iterations=max(int(80 * self.scale), 1))
        return ClusterConfig(
            episodes=self.episodes(16384),
            imitation_steps=max(int(1500 * self.scale), 20),
            refine_episodes=self.episodes(4096),
            refine_steps=max(int(400 * self.scale), 5),
        )

    def tune(
        self,
        method: str,
        base: str,
        start: str | None = None,
        *,
        spread: float = 0.3,
        coef: float | None = None,
        kl: float = 0.003,
        factor: float = 1.0,
        **options: Any,
    ) -> Job:
        """Run stage 2, or plain fine-tuning without a start."""
        folder = self.out / f"{method} {spread}".replace(" ", "_").replace("(", "").replace(")", "")
        config = FinetuneConfig(
            base=self.policy(base),
            start=None if start is None else str(self.out / start),
            accept_uncommanded=start is not None,
            out=folder,
            task=self.task(spread),
            balance=FinetuneConfig().balance if coef is None else ConstantConfig(coef),
            env_steps=int(4_000_000 * self.scale * factor),
            final_episodes=self.episodes(4096),
            learner=PPOConfig(kl_coef=kl),
            seed=self.seed,
            log=QUIET,
            resume=True,
            **options,
        )
        earlier = [] if start is None else [self.out / start]
        self.rows.append((method, spread, folder, earlier))
        return f"{self.seed} {folder.name}", finetune, config

    def results(self) -> list[dict[str, Any]]:
        """Return the rows of the seed; those of the bases first."""
        rows = []
        for name, label in (("base", "base"), ("skewed", "base (skewed)")):
            figures = read_json(self.out / name / "evaluation.json")["sampled"]
            chosen = {key: figures[key] for key in ("episodes", *FIGURES)}
            rows.append(
                {
                    "method": label,
                    "pay_spread": 0.3,
                    "seed": self.seed,
                    **chosen,
                    "env_steps": 0,
                    "seconds": 0.0,
                }
            )
        for method, spread, folder, earlier in self.rows:
            row = result_row(method, folder, self.seed, earlier)
            rows.append(row | {"pay_spread": spread})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, some methods")
    options = parser.parse_args()
    scale = 0.01 if options.smoke else 1.0
    seeds = [0] if options.smoke else options.seeds
    out = options.out or Path("runs") / ("ablations-smoke" if options.smoke else "ablations")
    started, rows = time.perf_counter(), []
    for seed in seeds:
        ablations = Ablations(out / f"seed{seed}", seed, scale)
        for stage in ablations.smoke() if options.smoke else ablations.stages():
            run_jobs(stage, options.jobs, started)
        rows += ablations.results()
        seconds = round(time.perf_counter() - started, 1)
        write_json(options.json, {"rows": rows, "seeds": seeds, "seconds": seconds})
    if not options.smoke:
        write_seeds_table(options.json, "Ablations on Avoid", rows)
    print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()
