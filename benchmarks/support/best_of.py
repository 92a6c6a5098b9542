"""Best of sixteen noises, with the outcome model that a run of guided discovery has learned."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from modereg.discovery.best_of import BestOf
from modereg.discovery.guided import GuidedDiscovery
from modereg.files import write_json
from modereg.recipes.config.text import read_config
from modereg.recipes.discover import stage_of
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import set_up
from modereg.storage import load_state

__all__ = ["best_of"]


def best_of(run: Path, out: Path, cwd: Path, episodes: int) -> None:
    """Judge it in a process of its own, in the folder where the base's code lies.

    Args:
        run: finished run of guided discovery.
        out: folder for ``evaluation.json`` and the CPU seconds beside it.
        cwd: where the run was typed.
        episodes: that are judged.
    """
    print(f"$ best of 16 with {run.name}'s outcome model", flush=True)
    arguments = [sys.executable, "-W", "ignore", __file__, str(run), str(out), str(episodes)]
    before = _spent()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(arguments, cwd=cwd, check=True, env=environment)
    spent = {"cpu_seconds": round(_spent() - before, 1)}
    write_json(out.with_name(f"{out.name}.cpu.json"), spent)


def _spent() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Load the run's outcome model, play the best of 16, and write what it reaches."""
    run, out, episodes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.path.append(os.getcwd())
    torch.set_num_threads(1)
    config: Any = read_config(run)
    setup = set_up(config.task, config.base)
    stage, env = stage_of(config, config.method, setup, load_state(run / "checkpoint.pt")["state"])
    assert isinstance(stage, GuidedDiscovery), stage
    chosen = BestOf(setup.base, stage.model, setup.layout, num_draws=16)
    figures, _ = evaluate_policy(
        setup,
        env,
        chosen,
        num_codes=stage.discoverer.num_codes,
        episodes=episodes,
        seed=config.seed + 10_000,
        estimator=stage.discoverer.estimator,
    )
    write_json(out / "evaluation.json", {"sampled": figures})


if __name__ == "__main__":
    main()
