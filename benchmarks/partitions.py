"""Whether what discovery finds are behaviours: labels, other seeds, noisy eyes, other dynamics.

    python benchmarks/partitions.py --json benchmarks/results/partitions.json

The base of a bed of ``foreign_policies.py`` plays episodes of its own for each discoverer
(clusters, and a classifier q of them, as stage 1 makes both, with nothing tuned), and others for
the judgement, none of which a discoverer has seen. Nobody but the judge sees the label. Only
successes are judged, as only they are clustered.

Rows: task, what, codes (a mean over discoverers), episodes (successes that are judged), then means
over discoverers, or pairs of them, and the worst one:

- seeds: nmi and ari of what q reads with the label; between_nmi and between_ari of two discoverers
  that saw other episodes and have another seed; certain (share of episodes of which q is sure, .9).
- noise s: the same episodes, the features with noise of s standard deviations of each dimension, of
  which q was told nothing: nmi and ari with the label, between_ of the same q without noise.
- dynamics: episodes in an environment of other dynamics, as the column says.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from foreign_policies import BEDS, FURTHER, SMOKE, Budget, Session
from support.results import write_results
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer
from modereg.discovery.stage1 import find_modes
from modereg.metrics import partition_agreement
from modereg.recipes.config import TaskConfig
from modereg.recipes.setup import set_up
from modereg.rollouts import collect_episodes

SHIFTED: dict[str, tuple[str | float, ...]] = {
    "gusts": ("gusts", 12),
    "rooms": ("wind", 1.0),
    "maze": ("gusts", 0.0),
    "avoid": ("start_noise", 0.03),
}
"""Options that change the dynamics, or where episodes begin; the bases know nothing of them."""

TASKS = ["avoid", "mujoco", "gusts", "rooms", "maze"]
NOISES = (0.1, 0.3, 1.0)
SURE = 0.9
MIN_SUCCESSES = 200
"""Of fewer, discoverers cluster failures too, by their default; then all are judged."""


def fresh(env: Any, episodes: int) -> tuple[Tensor, Tensor]:
    """Return features ``[N, F]`` and labels ``[N]`` of successes that no discoverer has seen."""
    final = collect_episodes(env, episodes, final=[keys.HISTORY, keys.SUCCESS, keys.MODE]).final
    solved = final[keys.SUCCESS].squeeze(-1)
    if int(solved.sum()) < MIN_SUCCESSES:
        solved = torch.ones_like(solved)
    return final[keys.HISTORY][solved], final[keys.MODE].squeeze(-1)[solved]


def environment(session: Session, seed: int, more: tuple[str | float, ...] = ()) -> Any:
    """Return the steered environment of a bed."""
    said = session.task
    options = (*session.bed.options, *more)
    pairs = zip(options[::2], options[1::2], strict=True)
    config = TaskConfig(
        said["task__name"],
        num_envs=said["task__num_envs"],
        options={name: value == "True" or value for name, value in pairs},
        feature_keys=session.bed.features or None,
        feature_dims=session.bed.dims or None,
        execute=said.get("task__execute"),
        offset=said.get("task__offset"),
    )
    env = set_up(config, str(session.common["base"])).steered(2)
    env.set_seed(seed)
    torch.manual_seed(seed)
    return env


def agreement(pairs: list[tuple[Tensor, Tensor]], prefix: str = "") -> dict[str, float]:
    """Return the mean and the worst agreement of pairs of partitions."""
    found = [partition_agreement(*pair) for pair in pairs]
    row = {}
    for name in ("nmi", "ari"):
        values = [each[name] for each in found]
        row[f"{prefix}{name}"] = round(sum(values) / len(values), 4)
        row[f"{prefix}{name}_worst"] = round(min(values), 4)
    return row


def judge(folder: Path, name: str, number: int, episodes: int, smoke: bool) -> list[dict[str, Any]]:
    """Fit discoverers of a bed, and return its rows; in a process of its own."""
    torch.set_num_threads(1)
    session = Session(folder, name, 0, SMOKE if smoke else Budget())
    session.train()
    os.chdir(session.home)  # where their owner would be
    sys.path.insert(0, str(session.home))
    made: list[ClusterModeDiscoverer] = []
    for seed in range(number):
        env = environment(session, seed)
        length = env.layout.max_decisions + 1
        made.append(find_modes(env, episodes, history_length=length, seed=seed))

    def log_q(features: Tensor) -> list[Tensor]:
        return [each.log_prob(TensorDict({each.feature_key: features})) for each in made]

    def read(features: Tensor) -> list[Tensor]:
        return [scores.argmax(-1) for scores in log_q(features)]

    def row(what: str, features: Tensor, labels: Tensor) -> dict[str, Any]:
        codes = sum(each.num_codes for each in made) / len(made)
        about = {"task": name, "what": what, "codes": round(codes, 1), "episodes": len(features)}
        found = read(features)
        return about | agreement([(each, labels) for each in found])

    features, labels = fresh(environment(session, 100), episodes)
    clean = read(features)
    sure = torch.stack([each.amax(-1) for each in log_q(features)]).exp() > SURE
    rows = [row("seeds", features, labels)]
    if number > 1:
        rows[0] |= agreement(list(combinations(clean, 2)), "between_")
    rows[0] |= {"certain": round(float(sure.float().mean()), 4)}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(features.shape, generator=generator) * features.std(0)
    for strength in NOISES:
        noisy = features + strength * noise
        same = agreement(list(zip(clean, read(noisy), strict=True)), "between_")
        rows.append(row(f"noise {strength}", noisy, labels) | same)
    if name in SHIFTED:
        other = fresh(environment(session, 101, SHIFTED[name]), episodes)
        what = "dynamics, " + " ".join(map(str, SHIFTED[name]))
        rows.append(row(what, *other))
    return rows


def main() -> None:
    """Judge the beds, one after another, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=[*BEDS, *FURTHER], default=TASKS)
    parser.add_argument("--discoverers", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder of the runs, of foreign_policies.py")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, one task")
    args = parser.parse_args()
    tasks, number, episodes = (
        (["gusts"], 2, 256) if args.smoke else (args.tasks, args.discoverers, 2048)
    )
    out = args.out or Path("runs") / ("foreign_smoke" if args.smoke else "foreign_policies")
    rows: list[dict[str, Any]] = []
    for task in tasks:  # each in a process of its own, since their modules have the same names
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as pool:
            rows += pool.submit(judge, out, task, number, episodes, args.smoke).result()
        write_results(args.json, "Partitions that discovery finds", {"rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
