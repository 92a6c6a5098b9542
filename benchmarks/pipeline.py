"""What would limit a run of a large VLA on a cluster: a small simulation, fed with costs.

    python benchmarks/pipeline.py --json benchmarks/results/pipeline.json

No such run was made. The simulation plays what 64 workers and 8 GPUs would do, decision by
decision, with times that are drawn; docs/scaling.md says what follows from it. Its costs:

- measured: a message to a worker and back through TorchRL's ``ParallelEnv`` costs the driver
  .6 CPU milliseconds (``--measure`` measures it again).
- from what others measured: 55 steps a CPU second of robosuite's Lift, on which LIBERO is built,
  without a camera; with two cameras a step is taken to cost twice as much, with a standard
  deviation of a fifth.
- counted: a decode of pi0 (arXiv 2410.24164) is 2 x 2.6e9 x 816 operations for images and
  instruction (three images of 256 tokens and 48 words) and 2 x 0.3e9 x 50 x 10 for ten steps of
  fifty actions, at 40 % of the 312e12 a second of an A100. The paper's 73 ms for a single
  observation on a smaller card is of that order.
- an observation: three images of 224 x 224 x 3 bytes, and a state of 32 floats.

Designs: ``step`` sends a message a step and decodes for all rows on one GPU, as
``--task.workers`` does with decode in the driver; ``decision`` sends one a decision; ``gpus``
decodes on all GPUs, with all rows waiting for the slowest worker; ``asynchronous`` lets each worker
go on as soon as its own chunks are decoded, by any GPU.

Rows: design, workers, gpus, rows (environments a worker has), steps_per_second (environment steps
of all), worker_busy and gpu_busy (shares of the time), megabytes_per_second (into the driver) and
days (for 10 million environment steps).
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from support.results import write_results
from torchrl.envs import ParallelEnv

from modereg.testing import CountingEnv

OPERATIONS = 2 * 2.6e9 * 816 + 2 * 0.3e9 * 50 * 10
OBSERVED = 3 * 224 * 224 * 3 + 32 * 4
GOAL_STEPS = 10_000_000


@dataclass(frozen=True)
class Cluster:
    """The costs of one decision's parts, seconds.

    Attributes:
        workers: processes that step environments.
        gpus: that decode.
        rows: environments of a worker, stepped one after the other.
        execute: steps of a chunk that are played.
        step: an environment step; spread: its standard deviation, as a share of it.
        decode: an observation, in a batch that fills a GPU; launch: a batch of any size.
        message: what a message of a worker costs the driver.
    """

    workers: int = 64
    gpus: int = 8
    rows: int = 4
    execute: int = 10
    step: float = 2 / 55
    spread: float = 0.2
    decode: float = OPERATIONS / (0.4 * 312e12)
    launch: float = 0.02
    message: float = 6.2e-4

    def played(self, steps: int, generator: np.random.Generator, workers: int) -> np.ndarray:
        """Draw what so many steps of all rows of some workers take, ``[workers]``."""
        shape = self.spread**-2
        return generator.gamma(shape * steps * self.rows, self.step / shape, workers)


Found = tuple[float, float, float]
"""Seconds of a decision of all rows, and of them those that a worker and a GPU are busy."""


def barrier(
    cluster: Cluster, decisions: int, generator: np.random.Generator, gpus: int, messages: int
) -> Found:
    """Return what a decision takes where all wait for the slowest, in every message."""
    waited, busy = 0.0, 0.0
    for _ in range(decisions * messages):
        played = cluster.played(cluster.execute // messages, generator, cluster.workers)
        waited += played.max() + cluster.message * cluster.workers
        busy += played.mean()
    decode = cluster.launch + cluster.decode * cluster.rows * cluster.workers / gpus
    whole = waited / decisions + decode
    return whole, busy / decisions, decode * gpus / cluster.gpus


def asynchronous(cluster: Cluster, decisions: int, generator: np.random.Generator) -> Found:
    """Return the same where nobody waits: each GPU decodes for all workers that ask by then."""
    done = np.zeros(cluster.workers, dtype=int)
    events = [(float(t), w) for w, t in enumerate(cluster.played(1, generator, cluster.workers))]
    heapq.heapify(events)  # when each worker asks
    free = [0.0] * cluster.gpus
    busy_workers = busy_gpus = now = 0.0
    while done.min() < decisions:
        gpu = int(np.argmin(free))
        begins = max(free[gpu], events[0][0])
        asking = []
        while events and events[0][0] <= begins and len(asking) < cluster.workers // cluster.gpus:
            asking.append(heapq.heappop(events)[1])
        spent = cluster.launch + cluster.decode * cluster.rows * len(asking)
        free[gpu] = now = begins + spent
        busy_gpus += spent
        for worker, played in zip(
            asking, cluster.played(cluster.execute, generator, len(asking)), strict=True
        ):
            heapq.heappush(events, (now + float(played) + cluster.message, worker))
            busy_workers += float(played)
            done[worker] += 1
    share = done.mean()
    return now / share, busy_workers / share / cluster.workers, busy_gpus / share / cluster.gpus


def designs(cluster: Cluster) -> dict[str, Callable[[int, np.random.Generator], Found]]:
    """Return the ways to run it."""
    return {
        "step": lambda n, g: barrier(cluster, n, g, 1, cluster.execute),
        "decision": lambda n, g: barrier(cluster, n, g, 1, 1),
        "gpus": lambda n, g: barrier(cluster, n, g, cluster.gpus, 1),
        "asynchronous": lambda n, g: asynchronous(cluster, n, g),
    }


def message_seconds(workers: int, rounds: int) -> float:
    """Return what a message of a worker costs this process, in CPU seconds."""
    env = ParallelEnv(
        workers, partial(CountingEnv, (1_000_000,)), mp_start_method="spawn", daemon=True
    )
    data = env.rand_action(env.reset())
    env.step(data)
    began = time.process_time()
    for _ in range(rounds):
        env.step(data)
    spent = time.process_time() - began
    env.close()
    return spent / rounds / workers


def main() -> None:
    """Simulate every design, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument(
        "--measure", action="store_true", help="the message's cost, on this machine"
    )
    parser.add_argument("--smoke", action="store_true", help="few decisions")
    args = parser.parse_args()
    decisions = 5 if args.smoke else args.decisions
    if args.measure:
        print(f"a message: {message_seconds(2, 20 if args.smoke else 2000):.2e} s")
    rows: list[dict[str, Any]] = []
    for per_worker in (1, 4, 16):
        cluster = Cluster(rows=per_worker)
        for name, run in designs(cluster).items():
            whole, worker, gpu = run(decisions, np.random.default_rng(0))
            number = cluster.workers * per_worker
            speed = number * cluster.execute / whole
            messages = cluster.execute if name == "step" else 1
            rows.append(
                {
                    "design": name,
                    "workers": cluster.workers,
                    "gpus": 1 if name in ("step", "decision") else cluster.gpus,
                    "rows": per_worker,
                    "steps_per_second": round(speed),
                    "worker_busy": round(float(worker / whole), 3),
                    "gpu_busy": round(float(gpu / whole), 3),
                    "megabytes_per_second": round(
                        float(OBSERVED * messages * number / whole) / 1e6, 1
                    ),
                    "days": round(float(GOAL_STEPS / speed) / 86400, 2),
                }
            )
            print(rows[-1])
    write_results(args.json, "A large VLA on 64 workers and 8 GPUs, simulated", {"rows": rows})


if __name__ == "__main__":
    main()
