"""How fast ManiSkill steps as one batch on a GPU, by the number of rows.

    python benchmarks/maniskill_gpu.py --json benchmarks/results/maniskill_gpu.json

Each row: task, num_envs (rows of the one simulation), transitions_per_second through
``ManiSkillEnv.step``, by the wall clock with the device synchronised, and gpu, the device's name.
Actions are random and drawn before; a row that ends stands still until the next piece. Where torch
sees no GPU, the script says so, measures nothing and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from support.results import write_results

from modereg_integrations.maniskill import ManiSkillEnv


def seconds_per_step(env: ManiSkillEnv, steps: int, seed: int) -> float:
    """Seconds of one step of the whole batch."""
    env.set_seed(seed)
    td = env.reset()
    actions = [env.rand_action()["action"] for _ in range(steps)]
    torch.cuda.synchronize()
    start = time.perf_counter()
    for action in actions:
        td = env.step(td.set("action", action))["next"]
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def measure(task: str, num_envs: int, steps: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    env = ManiSkillEnv(
        task,
        num_envs,
        sim_backend="physx_cuda",
        control_mode="pd_ee_delta_pos",
        max_steps=None,
        seed=0,
    )
    seconds = [seconds_per_step(env, steps, turn) for turn in range(rounds + 1)][1:]
    env.close()
    rate = round(num_envs / statistics.median(seconds))
    row = {"task": task, "num_envs": num_envs, "transitions_per_second": rate}
    return row | {"gpu": torch.cuda.get_device_name()}


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["PickCube-v1", "ModeregWall-v1"])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16, 256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=40, help="of a timed piece")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("Skipped: this needs an NVIDIA GPU that torch sees; nothing was measured or written.")
        return
    if args.smoke:
        args.num_envs, args.steps, args.rounds = [4], 2, 1
    rows = []
    for task in args.tasks:
        for num_envs in args.num_envs:
            rows.append(measure(task, num_envs, args.steps, args.rounds))
            print(rows[-1], flush=True)
    write_results(args.json, "Environment steps a second on ManiSkill, on a GPU", {"rows": rows})


if __name__ == "__main__":
    main()
