"""The base policies of ManiSkill's tasks: how each is made, in what time, and what it can do.

    python benchmarks/maniskill_bases.py --json benchmarks/results/maniskill_bases.json

Every line that starts with ``$`` is a command of modereg as a user would type it, run in a process
of its own, on the CPU. A base is cloned from the task's scripted expert by the settings in
``BASES``, and stops early on purpose: fine-tuning needs a base that is mediocre and has all modes.
A base that is there is not made again, and is in the table.

Rows: task, modes, demonstrations, expert (share of the demonstrations that succeed), hidden,
gradient steps and batch, inference_steps (DDIM), seconds and cpu_seconds of the demonstrations and
the cloning (the start of the process is in the second), episodes, success with its 95 % interval
(normal), present (modes with at least 1 % of the successes), present_share (of all modes), entropy
of the modes of the successes (by the logarithm of their number), mode_shares among the successes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run

from modereg.files import read_json, write_json

QUIET = ("--log.no-progress", "--log.no-tensorboard")


@dataclass(frozen=True)
class Base:
    """How a base is made and judged.

    Attributes:
        demonstrations: episodes of the expert.
        steps: gradient steps.
        hidden: widths of the denoiser.
        batch: chunks in a gradient step.
        inference_steps: denoising steps of the policy.
        judged: episodes of the evaluation.
    """

    demonstrations: int
    steps: int
    hidden: tuple[int, ...] = (256, 256, 256)
    batch: int = 256
    inference_steps: int = 8
    judged: int = 256


BASES = {
    "ModeregWall-v1": Base(demonstrations=150, steps=1600, hidden=(64, 64, 64)),
    "ModeregDiscs-v1": Base(demonstrations=100, steps=1600, hidden=(64, 64, 64)),
    "ModeregPosts6-v1": Base(demonstrations=240, steps=4000, hidden=(128, 128, 128)),
    "ModeregPosts24-v1": Base(demonstrations=480, steps=8000),
    "ModeregLiftPeg-v1": Base(demonstrations=200, steps=4000),
    "ModeregReach-v1": Base(demonstrations=100, steps=1200, hidden=(128, 128, 128)),
}
"""One row a task, by its id."""

NOTE = """The cost of a base is its CPU seconds, demonstrations included; seconds are wall clock,
which is more where a machine has other work."""

SMOKE = {"demonstrations": 8, "steps": 40, "hidden": (16, 16), "judged": 8}


def make(task: str, base: Base, folder: Path) -> None:
    """Clone and judge the base of a task in ``folder``, unless it is there."""
    named = {"task__name": f"maniskill:{task}", "out": folder}
    run(
        "pretrain",
        *QUIET,
        "--resume",
        **named,
        episodes=base.demonstrations,
        steps=base.steps,
        hidden=base.hidden,
        batch=base.batch,
        inference_steps=base.inference_steps,
    )
    if not (folder / "evaluation.json").exists():
        run("evaluate", **named, base=folder / "policy", episodes=base.judged)


def read_row(task: str, base: Base, folder: Path) -> dict[str, Any]:
    """Return the row of a base that was made and judged."""
    cloned = read_json(folder / "summary.json")
    figures = read_json(folder / "evaluation.json")["sampled"]
    shown = cloned["demonstrated_modes"]
    margin = 1.96 * figures["success_error"]
    return {
        "task": task,
        "modes": len(shown),
        "demonstrations": cloned["demonstrations"],
        "expert": sum(shown) / cloned["demonstrations"],
        "hidden": list(base.hidden),
        "steps": base.steps,
        "batch": base.batch,
        "inference_steps": base.inference_steps,
        "seconds": read_json(folder / "timing.json")["seconds"],
        "cpu_seconds": cpu_seconds(folder),
        "episodes": figures["episodes"],
        "success": figures["success"],
        "interval": [max(0.0, figures["success"] - margin), min(1.0, figures["success"] + margin)],
        "present": figures["present_modes"],
        "present_share": figures["present_modes"] / len(shown),
        "entropy": figures["entropy"],
        "mode_shares": figures["mode_shares"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| task | demonstrations | expert | widths | gradient steps x batch | DDIM steps | seconds "
        "| CPU seconds | success | modes present | entropy | smallest and largest share |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        low, high = row["interval"]
        cells = [
            row["task"],
            row["demonstrations"],
            f"{row['expert']:.3f}",
            ", ".join(map(str, row["hidden"])),
            f"{row['steps']} x {row['batch']}",
            row["inference_steps"],
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['success']:.3f} [{low:.3f}, {high:.3f}]",
            f"{row['present']} of {row['modes']}",
            f"{row['entropy']:.3f}",
            f"{min(row['mode_shares']):.3f}, {max(row['mode_shares']):.3f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def save(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, and beside them the same as a table in Markdown with the command."""
    if path is not None:
        write_json(path, {"rows": rows})
        command = (__doc__ or "").splitlines()[2].strip()
        path.with_suffix(".md").write_text(
            f"# Base policies of ManiSkill's tasks\n\n    {command}\n\n{NOTE}\n\n{table(rows)}\n"
        )


def main() -> None:
    """Make every base that is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=BASES, help="ids; all of them, if not given")
    parser.add_argument("--out", type=Path, help="folder of the bases")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, and one task")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("maniskill_bases_smoke" if args.smoke else "maniskill_bases")
    bases = {task: replace(base, **SMOKE) if args.smoke else base for task, base in BASES.items()}
    for task in args.tasks or list(BASES)[: 1 if args.smoke else None]:
        make(task, bases[task], out / task)
        judged = [each for each in BASES if (out / each / "evaluation.json").exists()]
        rows = [read_row(each, bases[each], out / each) for each in judged]
        save(args.json, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
