"""Twenty kills: an interrupted run that is resumed ends as one that never was, bit for bit.

    python benchmarks/resume.py --json benchmarks/results/resume.json

Every command runs once undisturbed and once (or more often, until there were enough kills) with
SIGKILLs at random moments from its start on, each followed by the same command with ``--resume``.
Then summary, curves and every file of the adapter are compared byte by byte.

Each row is a kill: kill, its number; command; after, seconds from the start of the process;
iteration, how many the checkpoint it left had closed (refinements in cluster discovery), None
before the first; equal, whether the run that it hit ended with the same bytes; ``kills`` and
``all_equal`` sum it up. A process that ended before its kill is not counted.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.results import write_results

from modereg.storage import load_state

CLI = [sys.executable, "-c", "import sys; from modereg.cli import main; sys.exit(main())"]
AVOID = ["--task.name", "task:avoid", "--task.num-envs", "64"]
MIXTURE = ["--task.name", "task:gaussian_mixture", "--task.num-envs", "64"]
QUIET = ["--log.no-progress"]
SMALL = ["--hidden", "32", "32"]
FILES = ("summary.json", "curves.csv")


@dataclass
class Command:
    """A command to be killed.

    Attributes:
        name: how the table calls it.
        arguments: of ``modereg``, without ``--out``.
    """

    name: str
    arguments: list[str]

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return self.name.replace(" ", "_")


def prepare(folder: Path, tasks: dict[str, list[str]]) -> None:
    """Clone the bases that the commands start from."""
    for name, task in tasks.items():
        arguments = ["pretrain", *task, *SMALL, "--steps", "300", "--episodes", "100"]
        run([*arguments, "--out", str(folder / name)])


def make_commands(folder: Path, length: int) -> list[Command]:
    """Return the commands, in the order of their dependence; ``length`` scales their budgets."""
    bases = {name: ["--base", str(folder / name / "policy")] for name in ("avoid", "mixture")}
    cluster = [
        "discover",
        "cluster",
        *AVOID,
        *bases["avoid"],
        "--hidden",
        "64",
        "64",
        "--num-codes",
        "16",
    ]
    cluster += [
        "--method.episodes",
        "1024",
        "--method.imitation-steps",
        "100",
        "--method.refine-steps",
        str(15 * length),
    ]
    cluster += [
        "--method.refine-episodes",
        "512",
        "--method.refinements",
        "5",
        "--method.target",
        "1.0",
    ]
    variational = ["discover", "variational", *MIXTURE, *bases["mixture"], *SMALL]
    variational += ["--num-codes", "8", "--method.iterations", str(4 * length)]
    tuned = ["finetune", "--eval-every", "3", "--eval-episodes", "128", "--final-episodes", "256"]
    avoid, mixture = [*tuned, *AVOID, *bases["avoid"]], [*tuned, *MIXTURE, *bases["mixture"]]
    steps = ["--env-steps", str(20_000 * length)]
    more = ["--env-steps", str(60_000 + 25_000 * length)]
    start = ["--start", str(folder / "discover_cluster"), "--accept-uncommanded"]
    return [
        Command("discover cluster", cluster),
        Command("discover variational", variational),
        Command("finetune plain", [*avoid, *steps]),
        Command("finetune regularised", [*avoid, *more, *start]),
        Command(
            "finetune online", [*mixture, *more, "--start", str(folder / "discover_variational")]
        ),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a command."""
    return subprocess.Popen(
        [*CLI, *arguments, *QUIET], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], timeout: float | None = None) -> bool:
    """Wait for a process, and kill it after a time; return whether it had to be."""
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    if process.returncode:
        raise RuntimeError(f"{process.args} failed:\n{errors}")
    return False


def run(arguments: list[str]) -> None:
    """Run a command to its end."""
    finish(start(arguments))


def timed(arguments: list[str], out: Path) -> tuple[float, float]:
    """Run a command; return the seconds until its folder was there, and those to its end."""
    begun = time.perf_counter()
    process = start([*arguments, "--out", str(out)])
    while not (out / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.02)
    ready = time.perf_counter() - begun
    finish(process)
    return ready, time.perf_counter() - begun


def iteration_of(folder: Path) -> int | None:
    """Return how many iterations the checkpoint of a run has closed, None without one."""
    if not (folder / "checkpoint.pt").exists():
        return None
    state = load_state(folder / "checkpoint.pt")["state"]
    return state["batches"] if "batches" in state else state["refined"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return what has to be equal, by name."""
    files = [*(folder / name for name in FILES), *sorted((folder / "adapter").iterdir())]
    return {file.name: file.read_bytes() for file in files}


def disturb(
    command: Command, folder: Path, kills: int, seconds: tuple[float, float], chance: random.Random
) -> list[dict[str, Any]]:
    """Run a command with so many kills; compare each run that ends with the undisturbed one."""
    reference, (ready, whole) = contents(folder / command.folder), seconds
    rows: list[dict[str, Any]] = []
    attempt = 0
    while len(rows) < kills:
        out, hits = folder / f"{command.folder}_killed_{attempt}", []
        arguments = [*command.arguments, "--out", str(out), "--resume"]
        while len(rows) + len(hits) < kills:
            after = 0.5 * ready + chance.uniform(0.0, 0.5 * ready + 1.5 * (whole - ready) / kills)
            if not finish(start(arguments), after):
                break
            hits.append({"after": round(after, 2), "iteration": iteration_of(out)})
        run(arguments)
        equal = contents(out) == reference
        rows += [{"command": command.name, **hit, "equal": equal} for hit in hits]
        attempt += 1
    return rows


def measure(folder: Path, commands: list[Command], kills: int, seed: int) -> dict[str, Any]:
    """Kill every command equally often."""
    chance, rows = random.Random(seed), []
    for number, command in enumerate(commands):
        seconds = timed(command.arguments, folder / command.folder)
        share = kills // len(commands) + (number < kills % len(commands))
        found = disturb(command, folder, share, seconds, chance)
        print(f"{command.name}: {seconds[1]:.1f} s undisturbed", *found, sep="\n  ", flush=True)
        rows += found
    rows = [{"kill": number} | row for number, row in enumerate(rows, 1)]
    return {"kills": len(rows), "all_equal": all(row["equal"] for row in rows), "rows": rows}


def main() -> None:
    """Kill, resume, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--length", type=int, default=10, help="scales the commands' budgets")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    if args.smoke:
        args.kills, args.length = 1, 2
    with tempfile.TemporaryDirectory() as name:
        folder, tasks = Path(name), {"avoid": AVOID, "mixture": MIXTURE}
        commands = make_commands(folder, args.length)
        if args.smoke:
            tasks.pop("avoid")
            commands = commands[1:2]
        prepare(folder, tasks)
        result = measure(folder, commands, args.kills, args.seed)
    print(f"{result['kills']} kills, all equal: {result['all_equal']}")
    write_results(args.json, "Kills and resumption", result)


if __name__ == "__main__":
    main()
