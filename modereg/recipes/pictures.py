"""The page and the pictures of a single run, beside its base."""

from __future__ import annotations

from pathlib import Path

from modereg.recipes.build import set_up
from modereg.recipes.config import DiscoverConfig, FinetuneConfig
from modereg.recipes.evaluate import evaluate_policy
from modereg.report import ReportEntry, write_report

__all__ = ["report_run"]

SEED, EPISODES, DRAWN = 12345, 1024, 400
"""Seed and number of the base's episodes, and how many are drawn at most."""


def report_run(config: DiscoverConfig | FinetuneConfig) -> Path:
    """Write pictures and ``index.html`` into the folder of a finished run.

    Args:
        config: what the run was started with.

    Returns:
        The page.
    """
    setup, out = set_up(config.task, config.base), Path(config.out)
    judged = config.final_episodes if isinstance(config, FinetuneConfig) else config.refine_episodes
    metrics, _ = evaluate_policy(
        setup,
        setup.steered(1, 1.0),
        None,
        num_codes=1,
        episodes=min(EPISODES, judged),
        seed=SEED,
    )
    entries = [ReportEntry("base", "base policy", None, {"sampled": metrics.to_dict()})]
    name, label = "regularised", "after stage 1"
    if isinstance(config, FinetuneConfig):
        label = "with modereg"
        if config.start is not None:
            entries.append(ReportEntry("stage_1", "after stage 1", Path(config.start)))
        elif config.num_codes is None:
            name, label = "plain", "plain fine-tuning"
    entries.append(ReportEntry(name, label, out))
    return write_report(
        out,
        setup,
        entries,
        title=f"modereg: {label}, {setup.task.name}",
        commands=[f"the options in {out / 'config.yaml'}"],
        episodes=min(DRAWN, judged),
        seed=SEED,
    )
