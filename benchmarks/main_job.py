"""The main job over several seeds: what ``modereg demo`` does, each seed with a base of its own.

    python benchmarks/main_job.py --json benchmarks/results/main_job.json --seeds 0 1 2

Rows are those of ``runs/demo/summary.json``: method, seed, episodes, success, entropy (by log 24),
present_modes, commandable_modes, env_steps, seconds, pay_spread. A run that is interrupted goes on
when the command is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from support.seeds import write_seeds_table

from modereg.commands.demo import demo
from modereg.files import write_json
from modereg.recipes.config import DemoConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/main_job"), help="folder of the runs"
    )
    parser.add_argument("--smoke", action="store_true", help="one seed and next to no fine-tuning")
    options = parser.parse_args()
    rows = []
    for seed in [0] if options.smoke else options.seeds:
        config = DemoConfig(out=options.out / f"seed{seed}", seed=seed)
        if options.smoke:
            out = options.out.with_name(f"{options.out.name}-smoke")
            config = DemoConfig(
                out=out, wide_spread=None, env_steps=100_000, episodes=512, seed=seed
            )
        for row in demo(config)["rows"]:
            rows.append({"pay_spread": config.pay_spread} | row)
        write_json(options.json, {"rows": rows})
    write_seeds_table(options.json, "The main job on Avoid", rows)


if __name__ == "__main__":
    main()
