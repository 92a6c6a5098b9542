"""How fast the embedded tasks step: transitions a second through ``EnvBase.step``, on one core.

    python benchmarks/env_speed.py --json benchmarks/results/env_speed.json

Each row: task; num_envs; transitions_per_second and microseconds_per_step, the median of
``--repeats`` timings in CPU time. What is timed is ``env.step`` with TorchRL's own overhead, with
an action that is drawn before; in the rows with ``resets``, ``step_and_maybe_reset``, with which a
collector resets by mask what has ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchrl.envs import EnvBase

from modereg.tasks import Avoid, GaussianMixture

ENVS: dict[str, Callable[[int], EnvBase]] = {"avoid": Avoid, "gaussian_mixture": GaussianMixture}


def seconds_per_step(env: EnvBase, steps: int, *, resets: bool) -> float:
    """CPU seconds of one step of the whole batch."""
    action = env.rand_action()["action"]
    root = env.reset()
    start = time.process_time()
    for _ in range(steps):
        root = root.set("action", action)
        root = env.step_and_maybe_reset(root)[1] if resets else env.step(root)["next"]
    return (time.process_time() - start) / steps


def measure(name: str, num_envs: int, steps: int, repeats: int, *, resets: bool) -> dict:
    """One row of the table."""
    env = ENVS[name](num_envs)
    seconds_per_step(env, 10, resets=resets)
    median = statistics.median(seconds_per_step(env, steps, resets=resets) for _ in range(repeats))
    return {
        "task": name,
        "num_envs": num_envs,
        "resets": resets,
        "transitions_per_second": round(num_envs / median),
        "microseconds_per_step": round(median * 1e6, 1),
    }


def main() -> None:
    """Measure every task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1024])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.num_envs, args.steps, args.repeats = [64], 5, 2
    torch.set_num_threads(1)
    rows = [
        measure(name, num_envs, args.steps, args.repeats, resets=resets)
        for name in ENVS
        for num_envs in args.num_envs
        for resets in (False, True)
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
