"""How environment steps a second grow with workers, beside stable-baselines3's processes.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json

Whole chunks are played, for so many rows, after a first one that counts for nothing. Rows:

- what: ``random`` plays chunks that are drawn at random, ``base`` those of a base policy, a UNet in
  the conventions of diffusers (``foreign_maze``), decoded for all rows at once.
- value: the environment, of gymnasium-robotics: a ball in a maze, and an ant in one.
- workers: processes that step the rows, 1 for none beside this one, or ``sb3``: stable-baselines3's
  ``SubprocVecEnv``, which has a process a row, in the same loop.
- steps_per_second: environment steps by the clock. ratio: over those of one worker. memory_mb: of
  this process and all others that it started, at the end (resident sets; what is shared is counted
  each time).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from foreign_bases import BEDS as TRAINED
from foreign_bases import train
from stable_baselines3.common.vec_env import SubprocVecEnv
from support.results import write_results
from torch import Tensor
from torchrl.envs import EnvBase

from modereg import keys
from modereg.plugins import resolve_policy
from modereg.policies import GenerativePolicy, freeze
from modereg.tasks import WorkerEnv, gymnasium_task
from modereg.transforms import ActionChunk
from modereg.wrapping import steer_env

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "maze": ("maze:SixRoutes-v0", {}),
    "ant": ("gymnasium_robotics:AntMaze_UMaze-v5", {}),
}
EXECUTE, OFFSET = TRAINED["foreign_maze"].execute, TRAINED["foreign_maze"].offset

Play = Callable[[], int]
"""Plays a chunk in every row, and returns how many environment steps that were."""


def memory_mb() -> int:
    """Return the resident memory of this process and those that it started."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def speed(play: Play, seconds: float) -> float:
    """Return environment steps a second by the clock, after a chunk that counts for nothing."""
    play()
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        steps += play()
    return steps / spent


def in_workers(env: EnvBase, policy: GenerativePolicy | None, layout: Any) -> Play:
    """Return what plays random chunks, or a policy's."""
    if policy is None:
        steered: Any = env.append_transform(ActionChunk(EXECUTE))
    else:
        steered = steer_env(env, policy, 1, layout)
    carrier = [steered.reset()]

    def play() -> int:
        data, carrier[0] = steered.step_and_maybe_reset(steered.rand_action(carrier[0]))
        return int(data["next", keys.STEPS].sum())

    return play


def in_sb3(env: SubprocVecEnv, policy: GenerativePolicy | None) -> Play:
    """Return the same with stable-baselines3's environment, whose rows begin anew by themselves."""
    rows, seen = env.num_envs, [env.reset()]
    low, high = env.action_space.low, env.action_space.high

    def chunk() -> np.ndarray:
        if policy is None:
            return np.random.uniform(low, high, (EXECUTE, rows, *low.shape)).astype(low.dtype)
        observed = [torch.as_tensor(seen[0][key]).float() for key in policy.observation_keys]
        decoded: Tensor = policy.decode(torch.randn(rows, *policy.noise_shape), *observed)
        played = decoded[:, OFFSET : OFFSET + EXECUTE].clamp(*map(torch.as_tensor, (low, high)))
        return played.transpose(0, 1).numpy()

    def play() -> int:
        for actions in chunk():
            seen[0], *_ = env.step(actions)
        return EXECUTE * rows

    return play


def measure(
    name: str, what: str, workers: int | str, rows: int, seconds: float, policy: Any
) -> dict[str, Any]:
    """Return a row of the table."""
    env_id, options = TASKS[name]
    task = gymnasium_task(env_id, execute=EXECUTE, offset=OFFSET, **options)
    env: Any
    if workers == "sb3":
        make = partial(gymnasium.make, env_id, **options)
        env = SubprocVecEnv([make] * rows, start_method="spawn")
        play = in_sb3(env, policy)
    else:
        env = task.make_env(rows) if workers == 1 else WorkerEnv(task.make_env, rows, int(workers))
        play = in_workers(env, policy, task.layout)
    found = {"steps_per_second": round(speed(play, seconds), 1), "memory_mb": memory_mb()}
    env.close()
    return {"what": what, "value": name, "workers": workers} | found


def main() -> None:
    """Measure one thing after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, help="folder of the policy of the maze")
    parser.add_argument("--smoke", action="store_true", help="one task, next to no time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out or Path("runs") / ("foreign_smoke" if args.smoke else "foreign_policies")
    home, result = (out / "foreign_maze").resolve(), args.json and args.json.resolve()
    train("foreign_maze", TRAINED["foreign_maze"], home, args.smoke)
    os.chdir(home)  # where the policy's owner would be
    sys.path.insert(0, str(home))
    base = freeze(resolve_policy("my_policy:load"))
    cases = [("random", name, None) for name in args.tasks]
    cases += [("base", "maze", base)] if "maze" in args.tasks else []
    rows: list[dict[str, Any]] = []
    for what, name, policy in cases[-1:] if args.smoke else cases:
        single = 0.0
        for workers in [*args.workers, "sb3"]:
            number, seconds = (4, 0.5) if args.smoke else (args.rows, args.seconds)
            row = measure(name, what, workers, number, seconds, policy)
            single = single or row["steps_per_second"]
            rows.append(row | {"ratio": round(row["steps_per_second"] / single, 3)})
            print(rows[-1], flush=True)
    write_results(result, "Environment steps a second with workers", {"rows": rows})


if __name__ == "__main__":
    main()
