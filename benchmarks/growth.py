r"""What stage 1 costs and reaches as noise dimensions and behaviours grow.

    python benchmarks/growth.py --json benchmarks/results/growth.json

A base policy is cloned for each row (``modereg pretrain``: an MLP that denoises the whole chunk, on
``support/dial.py``, where a point goes to one of so many goals around it), and ``modereg discover``
runs on it with its defaults. Noise dimensions are those of the chunk that the decoder really makes,
horizon times dimensions of an action: 4 x 2 to 50 x 32, as of a vision-language-action policy, of
which two dimensions of four actions are felt. An interrupted run goes on when the command is
repeated.

Rows: what (``noise`` or ``modes``, which grows), dimensions, horizon, action_dims, modes, seed,
base_success, base_present, success, present, commandable, codes, commanded (how many of them),
env_steps, cpu_seconds (of stage 1) and seconds_pretrain.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from support.commands import cpu_seconds, run
from support.results import write_results

from modereg.files import read_json

HERE = Path(__file__).resolve().parent
QUIET = ("--log.no-progress", "--log.no-tensorboard", "--no-page", "--resume")
TITLE = "What stage 1 costs as noise and behaviours grow"
CHUNKS = ((4, 2), (16, 2), (16, 7), (32, 16), (50, 32))
MODES = (4, 8, 16, 32, 64)
FEW, USUAL = 6, (16, 2)
"""Modes while noise grows, and the chunk while modes grow."""


def grow(out: Path, what: str, modes: int, chunk: tuple[int, int], seed: int, smoke: bool) -> Any:
    """Clone a base, run stage 1 on it, and return the row."""
    horizon, action_dims = chunk
    home = (out / f"{modes}x{horizon}x{action_dims}-{seed}").resolve()
    options = ("modes", modes, "action_dims", action_dims, "horizon", horizon)
    task = {"task__name": "support.dial:dial", "task__options": options}
    cloned, found = home / "base", home / "stage1"
    learning = {"episodes": 600 + 40 * modes, "steps": 200 if smoke else 4000, "seed": seed}
    run("pretrain", *QUIET[:2], "--resume", cwd=HERE, out=cloned, **task, **learning)
    common = {**task, "base": cloned / "policy", "seed": seed}
    tiny = {"method__episodes": 128, "method__refinements": 1, "final_episodes": 64}
    budget: dict[str, Any] = tiny if smoke else {"final_episodes": 2048}
    run("discover", *QUIET, cwd=HERE, out=found, **common, **budget)
    judged = {"episodes": budget["final_episodes"], "out": home / "judged"}
    if not (home / "judged" / "evaluation.json").exists():
        run("evaluate", "--log.no-progress", cwd=HERE, **common, **judged)
    base = read_json(home / "judged" / "evaluation.json")["sampled"]
    summary = read_json(found / "summary.json")
    codes = summary["verdict"]["codes"]
    return {
        "what": what,
        "dimensions": horizon * action_dims,
        "horizon": horizon,
        "action_dims": action_dims,
        "modes": modes,
        "seed": seed,
        "base_success": round(base["success"], 4),
        "base_present": base["present_modes"],
        "success": round(summary["sampled"]["success"], 4),
        "present": summary["sampled"]["present_modes"],
        "commandable": summary["sampled"]["commandable_modes"],
        "codes": len(codes),
        "commanded": sum(code["commands"] for code in codes),
        "env_steps": summary["env_steps"],
        "cpu_seconds": cpu_seconds(found),
        "seconds_pretrain": cpu_seconds(cloned),
    }


def main() -> None:
    """Run everything that is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--what", nargs="+", default=["noise", "modes"], choices=("noise", "modes"))
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, one row")
    args = parser.parse_args()
    out = args.out or Path("runs") / ("growth_smoke" if args.smoke else "growth")
    cells = [("noise", FEW, chunk) for chunk in CHUNKS] + [("modes", m, USUAL) for m in MODES]
    cells = [cell for cell in cells if cell[0] in args.what]
    rows = []
    for what, modes, chunk in cells[:1] if args.smoke else cells:
        for seed in args.seeds:
            rows.append(grow(out, what, modes, chunk, seed, args.smoke))
            write_results(
                args.json, "What stage 1 costs as noise and behaviours grow", {"rows": rows}
            )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
