"""A new user's hour: somebody else's policy and environment, from installation to the report.

    python benchmarks/new_user.py --json benchmarks/results/new_user.json --install

The folder of the policy is made by ``foreign/train.py``, which knows diffusers and Gymnasium and
nothing of modereg: a UNet1DModel under a DPM-Solver, trained on two observations under the keys
``agent_pos`` and ``environment_state``, with chunks of 16 actions of which 8 are played. The
environment, ``foreign/crossing.py``, has no label of its modes, and gusts that the demonstrations
did not have. ``foreign/my_policy.py`` is what the user writes.

Each command runs in an empty folder, as typed, in a process of its own; the transcript beside the
rows has it with its time and the end of what it printed. With ``--install`` the first commands make
a virtual environment and install this checkout and what it needs, and the others use it.

Rows: step, command, seconds (wall clock), cpu_seconds, and of the steps that judge something
success, present_modes, commandable_modes and entropy (by log 6; read by a label of the routes that
the environment gives on request and nothing is trained on). The machine was shared, so CPU seconds
are what to compare.

What it showed: everything runs, in ten minutes; but of this policy, whose noise has 32 dimensions
of which one decides the first gap, stage 1 learns little from 4096 episodes (1.25 of 6 effective
codes), and 0.4 M steps move neither method away from the base.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modereg.files import write_json

HERE = Path(__file__).parent
TASK = (
    "--base my_policy:load --task.name gymnasium:crossing:Crossing-v0 --task.num-envs {envs} "
    "--task.options horizon 16 execute 8 offset 1 gusts 7"
)
SEEN = "--task.feature-keys agent_pos --task.steering-keys agent_pos"
LABEL = "with_route True mode_key route num_modes 6"
FIGURES = ("success", "present_modes", "commandable_modes", "entropy")
KEPT_LINES = 14


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        clone_steps: gradient steps of the foreign policy's training.
        demonstrations: episodes that it is trained on.
        envs: environments side by side.
        looked_at: episodes of ``modereg inspect``.
        episodes: of the base, that discovery clusters.
        imitation_steps: gradient steps of discovery's first fit.
        refinements: of the steering policy in discovery.
        refine_episodes: episodes of each.
        env_steps: environment steps of a fine-tuning, stage 1 included.
        judged: episodes of the evaluations.
    """

    clone_steps: int = 1200
    demonstrations: int = 2000
    envs: int = 256
    looked_at: int = 256
    episodes: int = 4096
    imitation_steps: int = 300
    refinements: int = 4
    refine_episodes: int = 2048
    env_steps: int = 400_000
    judged: int = 1024


SMOKE = Budget(4, 24, 16, 32, 64, 20, 1, 32, 5_000, 32)


def steps(budget: Budget, install: bool) -> list[tuple[str, str]]:
    """Return the session: what each step is for, and its command."""
    task = TASK.format(envs=budget.envs)
    env_steps = f"--env-steps {budget.env_steps} --final-episodes {budget.judged}"
    judged = f"modereg evaluate {task} {LABEL} {SEEN} --episodes {budget.judged}"
    first = [
        ("make an environment", "python3 -m venv venv"),
        ("install", f"pip install {HERE.parent}"),
    ]
    return [
        *(first if install else []),
        (
            "the owner trains the policy",
            f"python train.py policy --steps {budget.clone_steps} "
            f"--episodes {budget.demonstrations}",
        ),
        ("look at the machine", "modereg doctor"),
        (
            "look at the policy",
            f"modereg inspect {task} {SEEN} --episodes {budget.looked_at}",
        ),
        (
            "discover",
            f"modereg discover cluster {task} {SEEN} --num-codes 6 "
            f"--method.episodes {budget.episodes} "
            f"--method.imitation-steps {budget.imitation_steps} "
            f"--method.refinements {budget.refinements} "
            f"--method.refine-episodes {budget.refine_episodes} --method.refine-steps 100 "
            "--method.validation 0.1 "
            "--out runs/stage1",
        ),
        (
            "fine-tune plainly",
            f"modereg finetune {task} {SEEN} {env_steps} --out runs/plain",
        ),
        (
            "fine-tune with modereg",
            f"modereg finetune {task} {SEEN} {env_steps} --start runs/stage1 "
            "--accept-uncommanded --out runs/kept",
        ),
        ("judge the base", f"{judged} --out runs/base"),
        ("judge plain fine-tuning", f"{judged} --run runs/plain --out runs/judged_plain"),
        ("judge modereg", f"{judged} --run runs/kept --out runs/judged_kept"),
        ("report", "modereg report runs/plain runs/kept --out runs/page --trust-code"),
    ]


def run(step: str, command: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run a command as typed; return its row and what it printed.

    Raises:
        SystemExit: if the command fails.
    """
    print(f"$ {command}", flush=True)
    python = folder / "venv" / "bin"
    here = python if python.exists() else Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    started, before = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(
        command.split(), cwd=folder, env=environment, text=True, capture_output=True
    )
    seconds, spent = time.perf_counter() - started, _cpu_of_children() - before
    if done.returncode and step != "look at the machine":  # doctor returns 1 if anything is missing
        print(done.stdout, done.stderr, file=sys.stderr)
        raise SystemExit(done.returncode)
    row = {"step": step, "command": command}
    row |= {"seconds": round(seconds, 1), "cpu_seconds": round(spent, 1)}
    return row | _figures(step, done.stdout), done.stdout.splitlines()


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _figures(step: str, printed: str) -> dict[str, Any]:
    if not step.startswith("judge"):
        return {}
    sampled = json.loads(printed)["sampled"]
    return {name: sampled[name] for name in FIGURES}


def transcript(rows: list[dict[str, Any]], printed: list[list[str]], install: bool) -> str:
    """Return the session as a page."""
    command = "python benchmarks/new_user.py --json benchmarks/results/new_user.json"
    command += " --install" if install else ""
    wrapper = (HERE / "foreign" / "my_policy.py").read_text().split("\n\n", 2)[2].strip()
    parts = [
        "# A new user's session\n",
        f"`{command}`\n",
        "Somebody else's policy folder and environment, commands as typed, each with its wall clock"
        " (on a machine that was shared) and CPU time. The user wrote this file, `my_policy.py`:\n",
        f"```python\n{wrapper}\n```\n",
        _table(rows),
    ]
    for row, lines in zip(rows, printed, strict=True):
        parts.append(f"## {row['step'].capitalize()}: {row['seconds']:.0f} s\n")
        kept = [line for line in lines if line.strip()][-KEPT_LINES:]
        text = "\n".join([f"$ {row['command']}", *kept]).replace(f"{HERE.parent}", "modereg")
        parts.append(f"```\n{text}\n```\n")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| step | seconds | CPU seconds | success | modes present | commandable | entropy |"]
    lines.append("|---" * 7 + "|")
    for row in rows:
        figures = [_cell(row.get(name)) for name in FIGURES]
        cells = [row["step"], f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}", *figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def main() -> None:
    """Run the session and write rows and transcript."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    folder = (Path("runs") / ("new_user_smoke" if args.smoke else "new_user")).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "foreign", folder, ignore=shutil.ignore_patterns("__pycache__"))
    rows, printed = [], []
    for step, command in steps(SMOKE if args.smoke else Budget(), args.install):
        row, lines = run(step, command, folder)
        rows.append(row)
        printed.append(lines)
        write_json(args.json, {"rows": rows})
        args.json.with_suffix(".md").write_text(transcript(rows, printed, args.install))


if __name__ == "__main__":
    main()
