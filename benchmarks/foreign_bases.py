"""The base policies that others trained: what each can do before anything is fine-tuned.

    python benchmarks/foreign_bases.py --json benchmarks/results/foreign_bases.json

Three folders stand for three people's work, each with an environment of its own, a ``train.py``
that knows nothing of modereg, and the ``my_policy.py`` that a user writes to steer what it saved.

- ``foreign``: past three pillars, in gusts that the demonstrations did not have. A UNet1DModel on
  two observations predicts the actions, scaled by their bounds, under a DPM-Solver.
- ``foreign_maze``: PointMaze of gymnasium-robotics with two walls, three gaps and two. A
  UNet1DModel behind one flat condition of the goal dictionary predicts the noise under DDIM.
- ``foreign_rooms``: a drone in a building of nine rooms, where touching a wall is the end. A
  transformer on chunks of 32 actions (64 noise dimensions) is trained by flow matching.

All of them have six routes, and no base is good, for two reasons. Training stops early: in calm
weather (``gusts 0.0``, ``wind 0.0``) success is .92, .83 and .72, and what fails there fails by its
noise and start (in the rooms, flights between the two doors of the first). Weather comes on top:
in the maze gusts of .3 of the largest force, beside a limit of 150 steps where the script takes 50
to 106; in the rooms a wind, which the demonstrations had too.

A base is trained and judged in a copy of its folder, in processes of its own on one thread; one
that is there is not trained again. The labels of the routes are asked for here and only judge.

Rows: task, noise_dims, demonstrations, gradient steps, parameters, train_cpu_seconds (the
demonstrations included), episodes, success with its 95 % interval (normal), present routes (at
least 1 % of the successes), entropy of the routes of the successes (by log 6), mode_shares among
them, per_mode_success (of the episodes whose route was decided), undecided (share of the episodes
that ended before), episode_steps (their mean length), env_steps_per_second (of CPU time, chunks of
random actions, resets included, without the policy) and decode_ms (CPU time of a chunk, in batches
of 64).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from support.timing import seconds

from modereg.files import read_json, write_json
from modereg.recipes.config import TaskConfig
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import Setup, set_up

HERE = Path(__file__).parent
LABEL = {"with_route": True, "mode_key": "route", "num_modes": 6}
BATCH = 64  # a maze takes 14 MB


@dataclass(frozen=True)
class Bed:
    """A folder, and how its policy is trained and played.

    Attributes:
        env_id: module that registers the environment, and its id.
        demonstrations: episodes of the script.
        steps: gradient steps.
        execute: actions of a chunk that are played.
        offset: first played action of a chunk.
        options: of the environment.
    """

    env_id: str
    demonstrations: int
    steps: int
    execute: int = 8
    offset: int = 0
    options: dict[str, Any] = field(default_factory=dict)


BEDS = {
    "foreign": Bed("crossing:Crossing-v0", 2000, 1200, offset=1, options={"gusts": 7.0}),
    "foreign_maze": Bed("maze:SixRoutes-v0", 600, 2000),
    "foreign_rooms": Bed("rooms:Rooms-v0", 600, 4000),
}
"""One row a bed, by the name of its folder."""


def train(name: str, bed: Bed, folder: Path, smoke: bool) -> None:
    """Copy the folder and run its training script there, unless it has run.

    Raises:
        CalledProcessError: if the script fails.
    """
    sources = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / name, folder, ignore=sources, dirs_exist_ok=True)
    if (folder / "training.json").exists():
        return
    episodes, steps = (24, 4) if smoke else (bed.demonstrations, bed.steps)
    command = f"train.py policy --episodes {episodes} --steps {steps}"
    print(f"$ cd {folder}; python {command}", flush=True)
    before = os.times()
    subprocess.run([sys.executable, "-W", "ignore", *command.split()], cwd=folder, check=True)
    after = os.times()
    spent = sum(after[2:4]) - sum(before[2:4])
    done = {"demonstrations": episodes, "steps": steps, "train_cpu_seconds": round(spent, 1)}
    write_json(folder / "training.json", done)


def judge(bed: Bed, folder: Path, episodes: int, smoke: bool) -> dict[str, Any]:
    """Return the row of a trained base; in a process of its own, for modules' names are alike."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    torch.set_num_threads(1)
    task = TaskConfig(
        f"gymnasium:{bed.env_id}",
        options=bed.options | LABEL,
        num_envs=16 if smoke else BATCH,
        execute=bed.execute,
        offset=bed.offset,
    )
    setup = set_up(task, "my_policy:load")
    figures, rolled = evaluate_policy(
        setup, setup.steered(1, 1.0), None, num_codes=1, episodes=episodes, seed=0
    )
    margin = 1.96 * figures["success_error"]
    kept = ("episodes", "success", "present_modes", "entropy", "mode_shares", "per_mode_success")
    return {
        "noise_dims": setup.base.noise_shape.numel(),
        "parameters": sum(parameter.numel() for parameter in setup.base.parameters()),
        **{name: figures[name] for name in (*kept, "undecided")},
        "interval": [figures["success"] - margin, figures["success"] + margin],
        "episode_steps": rolled.env_steps.double().mean().item(),
        **speeds(setup, rounds=1 if smoke else 20),
    }


def speeds(setup: Setup, rounds: int) -> dict[str, float]:
    """Return environment steps a second of CPU time, and the milliseconds of a decoded chunk."""
    env, base = setup.make_env(), setup.base
    root = env.reset()
    seen = [root[key] for key in base.observation_keys]
    noise = torch.randn(len(root), *base.noise_shape)
    steps = getattr(base, "observation_steps", 1)
    if steps > 1:
        seen = [value[:, None].expand(-1, steps, *value.shape[1:]) for value in seen]

    def step() -> None:
        nonlocal root
        root = env.step_and_maybe_reset(env.rand_action(root))[1]

    with torch.no_grad():
        decoded = seconds(lambda: base.decode(noise, *seen), rounds)
    return {
        "env_steps_per_second": round(len(root) / seconds(step, 10 * rounds)),
        "decode_ms": round(1e3 * decoded / len(noise), 3),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| task | noise dimensions | parameters | demonstrations | gradient steps | CPU seconds "
        "| success | routes present | entropy | shares of the routes | success by route "
        "| undecided | steps an episode | env steps a second | ms a chunk |",
        "|" + "---|" * 15,
    ]
    for row in rows:
        low, high = row["interval"]
        cells = [
            row["task"],
            row["noise_dims"],
            row["parameters"],
            row["demonstrations"],
            row["steps"],
            f"{row['train_cpu_seconds']:.0f}",
            f"{row['success']:.3f} [{low:.3f}, {high:.3f}]",
            f"{row['present_modes']} of 6",
            _figures([row["entropy"]]),
            _figures(row["mode_shares"]),
            _figures(row["per_mode_success"]),
            f"{row['undecided']:.2f}",
            f"{row['episode_steps']:.0f}",
            row["env_steps_per_second"],
            f"{row['decode_ms']:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _figures(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.2f}" for value in values)


def save(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, and beside them the same as a table in Markdown with the command."""
    if path is not None:
        write_json(path, {"rows": rows})
        command = (__doc__ or "").splitlines()[2].strip()
        page = f"# Base policies that others trained\n\n    {command}\n\n{table(rows)}\n"
        path.with_suffix(".md").write_text(page)


def main() -> None:
    """Train and judge every base, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beds", nargs="+", choices=BEDS, default=list(BEDS))
    parser.add_argument("--episodes", type=int, default=2048, help="of the evaluation")
    parser.add_argument("--out", type=Path, help="folder of the bases")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("foreign_bases_smoke" if args.smoke else "foreign_bases")
    episodes, rows = 16 if args.smoke else args.episodes, []
    for name in args.beds:
        folder = (out / name).resolve()
        train(name, BEDS[name], folder, args.smoke)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            judged = pool.submit(judge, BEDS[name], folder, episodes, args.smoke).result()
        rows.append({"task": name} | read_json(folder / "training.json") | judged)
        save(args.json, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
