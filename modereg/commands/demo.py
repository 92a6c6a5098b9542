"""The main job on Avoid: clone a base, fine-tune it plainly and with modereg, and report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modereg.balances.config import ConstantConfig
from modereg.commands.report import DRAWN, SEED
from modereg.commands.workers import Job, run_jobs
from modereg.files import write_json
from modereg.recipes.config import (
    DemoConfig,
    DiscoverConfig,
    EvaluateConfig,
    FinetuneConfig,
    LogConfig,
    PretrainConfig,
    ProgressConfig,
    TaskConfig,
)
from modereg.recipes.evaluate import evaluate
from modereg.recipes.follow import discover, finetune, pretrain
from modereg.recipes.setup import set_up
from modereg.report import ReportEntry, write_report
from modereg.report.episodes import Archive
from modereg.report.folders import read_figures, read_seconds, read_summary

__all__ = ["demo", "result_row"]

QUIET = LogConfig(progress=False)
LABELS = {
    "base": "base policy",
    "plain": "plain fine-tuning",
    "codes_only": "codes only",
    "regularised": "with modereg",
}


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demonstration; see :class:`~modereg.recipes.config.DemoConfig`.

    An interrupted demonstration goes on where it was.

    Returns:
        ``{"rows": [...]}``, which is also written to ``out/summary.json``.
    """
    out, started = Path(config.out), time.perf_counter()
    print(f"modereg demo: Avoid, 24 modes, routes pay 1 +- {config.pay_spread}; all in {out}")
    jobs = _jobs(config, out)
    for stage in jobs:
        run_jobs(stage, config.jobs, started)
    rows = [_base_row(config, out)]
    for method, folder, spread in _runs(config, out):
        earlier = [out / "discover"] if method != "plain" else []
        rows.append(result_row(method, folder, config.seed, earlier) | {"pay_spread": spread})
    summary = {"rows": rows, "seconds": round(time.perf_counter() - started, 1)}
    write_json(out / "summary.json", summary)
    page = _report(config, out, rows)
    print(_table(rows))
    for note in _notes(config, rows):
        print(note)
    print(f"{summary['seconds']:.0f} s in all. Look at {page}")
    return summary


def _task(spread: float) -> TaskConfig:
    return TaskConfig("task:avoid", {"pay_spread": spread}, num_envs=512)


def _runs(config: DemoConfig, out: Path) -> list[tuple[str, Path, float]]:
    """Return method, folder and spread of every fine-tuning."""
    spread, wide = config.pay_spread, config.wide_spread
    runs = [(name, out / name, spread) for name in ("plain", "codes_only", "regularised")]
    if wide is not None:
        runs += [(name, out / f"{name}_wide", wide) for name in ("codes_only", "regularised")]
    return runs


def _jobs(config: DemoConfig, out: Path) -> list[list[Job]]:
    """Return the jobs in the order of their dependence; those of one list are independent."""
    base, task = str(out / "base" / "policy"), _task(config.pay_spread)
    clone = PretrainConfig(out=out / "base", task=task, seed=config.seed, log=QUIET, resume=True)
    find = DiscoverConfig(
        base=base, out=out / "discover", task=task, seed=config.seed, log=QUIET, resume=True
    )
    common = FinetuneConfig(
        base=base,
        task=task,
        env_steps=config.env_steps,
        final_episodes=config.episodes,
        seed=config.seed,
        log=QUIET,
        resume=True,
    )
    judge = EvaluateConfig(
        base=base,
        out=out / "base",
        task=task,
        episodes=config.episodes,
        log=ProgressConfig(progress=False),
    )
    first: list[Job] = [
        ("discover", discover, find),
        ("plain", finetune, replace(common, out=out / "plain")),
        ("base", evaluate, judge),
    ]
    second: list[Job] = []
    for method, folder, spread in _runs(config, out):
        if method != "plain":
            wide = spread != config.pay_spread
            tuned = replace(
                common,
                out=folder,
                start=str(out / "discover"),
                balance=ConstantConfig(0.0) if method == "codes_only" else common.balance,
                task=_task(spread),
                env_steps=config.wide_env_steps if wide else config.env_steps,
            )
            second.append((folder.name, finetune, tuned))
    return [[("clone", pretrain, clone)], first, second]


def result_row(
    method: str, folder: Path, seed: int, earlier: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return a run's line of the table; its seconds include those of earlier runs it built on."""
    summary = read_summary(folder)
    figures = summary["sampled"]
    seconds = sum(read_seconds(part) for part in [*earlier, folder])
    return _row(method, seed, figures, summary["env_steps"], seconds) | {
        f"deterministic_{name}": summary["deterministic"][name]
        for name in ("success", "entropy", "present_modes", "commandable_modes")
        if "deterministic" in summary
    }


def _base_row(config: DemoConfig, out: Path) -> dict[str, Any]:
    figures = read_figures(out / "base" / "evaluation.json")["sampled"]
    return _row("base", config.seed, figures, 0, 0.0)


def _row(
    method: str, seed: int, figures: dict[str, Any], env_steps: int, seconds: float
) -> dict[str, Any]:
    names = ("episodes", "success", "success_error", "entropy", "present_modes")
    chosen = {name: figures[name] for name in (*names, "commandable_modes")}
    return {"method": method, "seed": seed, **chosen, "env_steps": env_steps, "seconds": seconds}


def _report(config: DemoConfig, out: Path, rows: list[dict[str, Any]]) -> Path:
    """Draw the pictures and the page about base, plain and regularised; return its path."""
    task = _task(config.pay_spread)
    setup = set_up(task, str(out / "base" / "policy"))
    archive = Archive(setup, task.options, out / "base", SEED)
    figures = read_figures(out / "base" / "evaluation.json") | {"env_steps": 0, "seconds": 0.0}
    entries = [ReportEntry("base", LABELS["base"], None, figures)]
    for method, folder, spread in _runs(config, out):
        label = LABELS[method] + ("" if spread == config.pay_spread else f", pay +- {spread}")
        entries.append(ReportEntry(folder.name, label, folder))
    return write_report(
        out,
        setup,
        entries,
        title="modereg: fine-tuning on Avoid with its 24 modes kept",
        paths={
            entry.name: archive.find(entry) or archive.roll_out(entry, DRAWN) for entry in entries
        },
        seed=SEED,
        commands=[f"modereg demo --out {out} --seed {config.seed}"],
        notes=_notes(config, rows),
    )


def _notes(config: DemoConfig, rows: list[dict[str, Any]]) -> list[str]:
    """Say what the codes do alone, and what the intrinsic reward adds, by the figures."""
    notes = []
    for spread in (config.pay_spread, config.wide_spread):
        found = {row["method"]: row for row in rows if row.get("pay_spread") == spread}
        if not {"codes_only", "regularised"} <= set(found):
            continue
        codes, ours = found["codes_only"], found["regularised"]
        lost = ours["commandable_modes"] - codes["commandable_modes"]
        verdict = (
            "the start that stage 1 gives suffices, and the intrinsic reward is insurance"
            if lost <= 0 and codes["entropy"] > ours["entropy"] - 0.01
            else "the intrinsic reward decides"
        )
        notes.append(
            f"Where routes pay 1 +- {spread}, {verdict}: codes alone (coefficient 0) leave "
            f"{codes['present_modes']} modes present, {codes['commandable_modes']} commandable, "
            f"entropy {codes['entropy']:.3f}; with the intrinsic reward {ours['present_modes']}, "
            f"{ours['commandable_modes']} and {ours['entropy']:.3f}."
        )
    return notes


def _table(rows: list[dict[str, Any]]) -> str:
    head = "method        pay +-  success          entropy  present  commandable   steps  seconds"
    lines = [head]
    for row in rows:
        spread = row.get("pay_spread")
        lines.append(
            f"{row['method']:<13} {'' if spread is None else spread:<6}  "
            f"{row['success']:.3f} +- {row['success_error']:.3f}  {row['entropy']:.3f}    "
            f"{row['present_modes']:>2}       {row['commandable_modes']:>2}        "
            f"{row['env_steps'] / 1e6:5.2f} M  {row['seconds']:5.0f}"
        )
    return "\n".join(lines)
