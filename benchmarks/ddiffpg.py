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
where that is the smallest; env_steps, and CPU minutes on one thread, evaluations included.

Of ``modes`` also:

- replanned: a disc of a radius of .2 that cannot be entered stands in the way of the commanded
  mode, .45 of the way to its goal; the share of episodes that reach a goal all the same within 72
  steps, where a row that is stuck commands another mode; blocked is the same without replanning.

``modes, then stage 2``: the policy without commands as the base of ``modereg discover cluster``,
with as many codes as modes were found, and then ``finetune`` with the same unequal pay; the figures
are those of sampled noise after stage 2, beside those after stage 1, and steps and minutes those of
the two.

Rows that the file has already are kept, so others are added, such as those of ``--task maze --seeds
0 --methods modes``: PointMaze of gymnasium-robotics, six routes to one goal that pay alike; or of
``--task avoid``, 24 routes that pay alike. Replanning is the mixture's.
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
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    FinetuneConfig,
    FromScratchConfig,
    LogConfig,
    TaskConfig,
)
from modereg.recipes.follow import discover, finetune, from_scratch
from modereg.recipes.from_scratch import make
from modereg.recipes.runs import Run
from modereg.rollouts import collect_episodes
from modereg.seeding import isolated_generators

QUIET = LogConfig(tensorboard=False, progress=False)
MAZE = TaskConfig(
    "gymnasium:maze:SixRoutes-v0",
    {"gusts": 0.0, "with_route": True, "mode_key": "route", "num_modes": 6},
    num_envs=32,
    feature_keys=("achieved_goal",),
)
TASKS = {
    "mixture": (TaskConfig("task:gaussian_mixture", {"pay_spread": 0.3}, num_envs=64), 50_000),
    "maze": (MAZE, 300_000),
    "avoid": (TaskConfig("task:avoid", {"pay_spread": 0.0}, num_envs=128), 500_000),
}
"""Each with its environment steps."""

STAGE_2 = "modes, then stage 2"
METHODS = {"modes": "warped", "one critic": "one", "behaviours": "behaviours", STAGE_2: "warped"}
DISC, ON_THE_WAY, REPLAN_STEPS, REPLANS = 0.2, 0.45, 72, 256
STAGE_2_STEPS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--env-steps", type=int)
    parser.add_argument("--runs", type=Path, help="where the runs are kept; else nowhere")
    parser.add_argument("--task", choices=list(TASKS), default="mixture")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [] if given.smoke else kept_rows(given.json)
    done = {(row["task"], row["method"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds[: 1 if given.smoke else None]:
            for method in given.methods:
                out = (given.runs or Path(folder)) / f"{given.task}-{METHODS[method]}-{seed}"
                named = {"task": given.task, "method": method, "seed": seed}
                if tuple(named.values()) in done:
                    continue
                config = configuration(given, method, seed, out)
                if method == STAGE_2:
                    row = named | stage_2(from_scratch(config), config, given.smoke)
                else:
                    row = named | run(config, given)
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
    task, steps = TASKS[given.task]
    if given.task == "maze":
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
    """Learn, judge and replan."""
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
    if config.clusters == "warped" and given.task == "mixture" and summary["modes"] > 1:
        row |= replan(load(config), config)
    return row


def load(config: FromScratchConfig) -> DDiffPG:
    """Return the learner as the run left it."""
    learner, _ = make(config)
    with Run(replace(config, resume=True)) as finished:
        learner.load_state_dict(finished.load()["learner"])
    return learner


def replan(learner: DDiffPG, config: FromScratchConfig) -> dict[str, float]:
    """Put a disc into the way of each mode, and see who gets to a goal all the same."""
    groups = learner.modes.clusters.representatives
    modes = torch.arange(REPLANS) % len(groups)
    discs = torch.stack([group[0][0].lerp(group[0][-1], ON_THE_WAY) for group in groups])
    usual = usual_progress([path for group in groups for path in group], 2)
    told = learner.modes.embeddings[1:]
    policies = {
        "replanned": Replanning(learner.actor, told, modes, usual),
        "blocked": Commanded(learner.actor, told[modes]),
    }
    found = {}
    for name, policy in policies.items():
        with isolated_generators(config.seed):
            env = ObstructedMixture(discs[modes], DISC, max_steps=REPLAN_STEPS, seed=config.seed)
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


def stage_2(made: dict[str, Any], config: FromScratchConfig, smoke: bool) -> dict[str, Any]:
    """Find as many codes of the learned policy as it has modes, and fine-tune by unequal pay."""
    began, out = time.process_time(), config.out
    task = replace(config.task, num_envs=256)
    method = ClusterConfig(
        episodes=2048, imitation_steps=600, refinements=3, refine_episodes=1024, refine_steps=200
    )
    if smoke:
        method = replace(method, episodes=256, imitation_steps=20, refinements=1)
    common: dict[str, Any] = {
        "base": made["policy"],
        "task": task,
        "seed": config.seed,
        "log": QUIET,
    }
    codes = max(made["modes"], 2)
    first = discover(DiscoverConfig(out=out / "stage1", method=method, num_codes=codes, **common))
    second = finetune(
        FinetuneConfig(
            start=str(out / "stage1"),
            out=out / "stage2",
            env_steps=first["env_steps"] + (6_000 if smoke else STAGE_2_STEPS),
            accept_uncommanded=smoke,
            **common,
        )
    )
    row: dict[str, Any] = {}
    for name, summary in (("", second), ("stage1_", first)):
        for figure in ("success", "entropy", "present_modes", "commandable_modes"):
            row[name + figure] = summary["sampled"][figure]
    minutes = (time.process_time() - began) / 60
    return row | {"env_steps": second["env_steps"], "cpu_minutes": minutes}


if __name__ == "__main__":
    main()
