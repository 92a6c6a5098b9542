"""DDiffPG from scratch: modes, their success and cost, beside the same actor with one critic.

    python benchmarks/ddiffpg.py --json benchmarks/results/ddiffpg.json --seeds 0 1 2

No policy is given. The Gaussian mixture has four goals around the start, of which each pays once,
1 +- .3, when it is reached. For every seed and method:

- ``modes``: ``modereg from-scratch``, modes by warped distances, a critic of each.
- ``behaviours``: the same with stage 1's clusters.
- ``one critic``: the same with a single critic of all trajectories, the ablation.

Each row: seed; modes that were found; of the policy without commands, on 2048 episodes, success,
entropy over log 4 and present_modes; of commanded episodes success, commandable_modes, and
worst_hits, the share of its episodes in which a command shows its mode with success, of the mode
where that is the smallest; env_steps, and CPU minutes on one thread, evaluations included. Then

- replanned: an obstacle stands in the way of the commanded mode, in the middle of the path that it
  usually takes; the share of episodes that reach a goal all the same, where a row that is stuck
  commands another mode; blocked beside it is the same without replanning, of at most 72 steps both.
- stage 2 (``modes``, seed 0): the policy without commands as the base of ``modereg discover`` and
  ``finetune``, with the same unequal pay: success, modes present and commandable after each.

With ``--maze --seeds 0 --methods modes`` the task is PointMaze of gymnasium-robotics, six routes to
one goal, one pay. Its rows are added to those that the file has, as those of any seed or method.
Stage 2 and replanning are the mixture's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.obstacles import ObstructedMixture
from support.results import write_results

from modereg import keys
from modereg.ddiffpg.actor import Commanded
from modereg.ddiffpg.learner import DDiffPG
from modereg.ddiffpg.making import chunked_env
from modereg.ddiffpg.replanning import Replanning, usual_progress
from modereg.learners.config import PPOConfig
from modereg.recipes.config import (
    DiscoverConfig,
    FinetuneConfig,
    FromScratchConfig,
    GuidedConfig,
    LogConfig,
    TaskConfig,
)
from modereg.recipes.follow import discover, finetune, from_scratch
from modereg.recipes.from_scratch import make
from modereg.recipes.runs import Run
from modereg.rollouts import collect_episodes
from modereg.seeding import isolated_generators

QUIET = LogConfig(tensorboard=False, progress=False)
MIXTURE = TaskConfig("task:gaussian_mixture", {"pay_spread": 0.3}, num_envs=64)
MAZE = TaskConfig(
    "gymnasium:maze:SixRoutes-v0",
    {"gusts": 0.0, "with_route": True, "mode_key": "route", "num_modes": 6},
    num_envs=32,
    feature_keys=("achieved_goal",),
)
METHODS = {"modes": "warped", "behaviours": "behaviours", "one critic": "one"}
DISC, REPLAN_STEPS, REPLANS = 0.12, 72, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--env-steps", type=int)
    parser.add_argument("--maze", action="store_true", help="PointMaze in the mixture's place")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [] if given.smoke else kept_rows(given.json)
    done = {(row["task"], row["method"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds[: 1 if given.smoke else None]:
            for method in given.methods:
                out = Path(folder) / f"{method}-{seed}"
                named = {
                    "task": "maze" if given.maze else "mixture",
                    "method": method,
                    "seed": seed,
                }
                if tuple(named.values()) in done:
                    continue
                row = named | run(configuration(given, method, seed, out), given)
                print(row, flush=True)
                rows.append(row)
                write_results(given.json, "DDiffPG from scratch", {"rows": rows})


def kept_rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows that a file has already."""
    if path is None or not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def configuration(
    given: argparse.Namespace, method: str, seed: int, out: Path
) -> FromScratchConfig:
    task, steps = (MAZE, 300_000) if given.maze else (MIXTURE, 50_000)
    if given.maze:
        sys.path.insert(0, str(Path(__file__).parent / "foreign_maze"))
    config = FromScratchConfig(
        out=out,
        task=task,
        clusters=METHODS[method],  # type: ignore[arg-type]
        env_steps=given.env_steps or steps,
        eval_every=1000,
        seed=seed,
        log=QUIET,
    )
    if not given.smoke:
        return config
    task = replace(task, num_envs=8)
    return replace(config, task=task, env_steps=6000, updates=2, final_episodes=64)


def run(config: FromScratchConfig, given: argparse.Namespace) -> dict[str, Any]:
    """Learn, judge, replan and go on to stage 2."""
    began = time.process_time()
    summary = from_scratch(config)
    minutes = (time.process_time() - began) / 60
    free, told = summary["sampled"], summary.get("commanded") or {}
    row = {
        "modes": summary["modes"],
        **{name: free[name] for name in ("success", "entropy", "present_modes")},
        "commanded": told.get("success"),
        "commandable_modes": told.get("commandable_modes"),
        "worst_hits": min(summary["hits"], default=None) if told else None,
        "env_steps": summary["env_steps"],
        "cpu_minutes": minutes,
    }
    if config.clusters == "warped" and not given.maze:
        if summary["modes"] > 1:
            row |= replan(load(config), config)
        if config.seed == 0:
            row |= stage_2(summary["policy"], config, given.smoke)
    return row


def load(config: FromScratchConfig) -> DDiffPG:
    """Return the learner as the run left it."""
    learner, _ = make(config)
    with Run(replace(config, resume=True)) as finished:
        learner.load_state_dict(finished.load()["learner"])
    return learner


def replan(learner: DDiffPG, config: FromScratchConfig) -> dict[str, float]:
    """Put a disc into the middle of the usual path of each mode, and see who gets to a goal."""
    groups = learner.modes.clusters.representatives
    modes = torch.arange(REPLANS) % len(groups)
    middles = torch.stack([group[0][len(group[0]) // 2] for group in groups])
    usual = usual_progress([path for group in groups for path in group], 2)
    told = learner.modes.embeddings[1:]
    policies = {
        "replanned": Replanning(learner.actor, told, modes, usual),
        "blocked": Commanded(learner.actor, told[modes]),
    }
    found = {}
    for name, policy in policies.items():
        with isolated_generators(config.seed):
            env = ObstructedMixture(middles[modes], DISC, max_steps=REPLAN_STEPS, seed=config.seed)
            task = make_task(config).with_layout(max_steps=REPLAN_STEPS)
            chunked = chunked_env(env, task.layout, learner.actor.policy, 1.0)
            episodes = collect_episodes(
                chunked,
                REPLANS,
                max_decisions=task.layout.max_decisions,
                policy=policy,
                final=[keys.SUCCESS],
            )
        found[name] = float(episodes.final[keys.SUCCESS].float().mean())
    return found


def make_task(config: FromScratchConfig) -> Any:
    from modereg import plugins

    return plugins.resolve_task(config.task.name, **config.task.options)


def stage_2(base: str, config: FromScratchConfig, smoke: bool) -> dict[str, Any]:
    """Find codes of the learned policy, and fine-tune them with unequal pay."""
    task, out = replace(config.task, num_envs=256), config.out
    method = GuidedConfig()
    if smoke:
        method = GuidedConfig(
            episodes=512,
            refinements=1,
            refine_episodes=64,
            outcome_steps=20,
            guide_steps=20,
            student_steps=20,
        )
    first = discover(
        DiscoverConfig(
            base=base, out=out / "stage1", task=task, method=method, seed=config.seed, log=QUIET
        )
    )
    more = 6_000 if smoke else 200_000
    second = finetune(
        FinetuneConfig(
            base=base,
            start=str(out / "stage1"),
            out=out / "stage2",
            task=task,
            learner=PPOConfig(),
            env_steps=first["env_steps"] + more,
            accept_uncommanded=smoke,
            seed=config.seed,
            log=QUIET,
        )
    )
    found: dict[str, Any] = {}
    for name, summary in (("stage1", first), ("stage2", second)):
        figures = summary["sampled"]
        for figure in ("success", "present_modes", "commandable_modes"):
            found[f"{name}_{figure}"] = figures[figure]
    return found


if __name__ == "__main__":
    main()
