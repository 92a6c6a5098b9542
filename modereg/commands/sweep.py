"""Many runs from one file: what is there is kept, the rest is run, and a table says what came."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from modereg.aggregates import interquartile_interval, interquartile_mean
from modereg.commands.report import report
from modereg.commands.side_by_side import Command, run_commands
from modereg.commands.trials import Trial, read_trials
from modereg.commands.workers import brief
from modereg.errors import ConfigurationError, ModeregError
from modereg.files import read_json, write_atomic, write_json
from modereg.recipes.config import DiscoverConfig, FinetuneConfig, ReportConfig, SweepConfig

__all__ = ["sweep"]

FIGURES = ("success", "mean_return", "entropy", "present_modes", "commandable_modes")
COLUMNS = ("task", "method", "seed", "success", "success_error", *FIGURES[1:], "env_steps")


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Run what a file asks for; see :class:`~modereg.recipes.config.SweepConfig`.

    Returns:
        ``{"rows": [...], "pages": [...]}``; rows are kept in ``sweep.json``, too,
        and as a table in ``sweep.md``, after each run.

    Raises:
        ConfigurationError: if the file is wrong, or a run's folder belongs to another; at the end,
            if runs failed.
        CheckpointError: if a file cannot be read.
    """
    started = time.perf_counter()
    out = config.out or Path("runs") / config.file.stem
    trials = {each.name: each for each in read_trials(config.file, out, trust=config.trust_code)}
    kept = out / "sweep.json"
    known = read_json(kept)["judged"] if kept.exists() else {}
    todo = {name: trial for name, trial in trials.items() if not trial.finished(known)}
    print(
        f"modereg sweep: {len(trials)} runs, of which {len(trials) - len(todo)} are there; "
        f"{config.processes} at a time; all in {out}",
        flush=True,
    )
    failed: list[str] = []

    def ended(name: str, succeeded: bool) -> None:
        trial = trials[name]
        failed.extend([] if succeeded else [name])
        if succeeded and trial.arguments[0] == "evaluate":
            known[name] = list(trial.arguments)
        found = brief(trial.figures()) if succeeded else f"failed: {_last_words(trial)}"
        print(f"[{time.perf_counter() - started:5.0f} s] {name}: {found}", flush=True)
        _save(out, trials.values(), known)

    commands = {
        name: Command(trial.arguments, _log(trial), trial.needs) for name, trial in todo.items()
    }
    run_commands(commands, config.processes, ended)
    rows = _save(out, trials.values(), known)
    pages = _pages(out, trials.values(), config) if config.page else []
    print(_table(rows), *(f"Look at {page}" for page in pages), sep="\n")
    if failed:
        raise ConfigurationError(
            f"expected all {len(trials)} runs to come to their end, but {len(failed)} failed or "
            f"wait for one that did: {', '.join(failed)}; look at {_log(trials[failed[0]])}, and "
            "repeat the command"
        )
    return {"rows": rows, "pages": pages}


def _log(trial: Trial) -> Path:
    return trial.folder.with_name(f"{trial.folder.name}.log")


def _last_words(trial: Trial) -> str:
    """Return the last line that a run printed."""
    log = _log(trial)
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it waits for one that did")


def _save(out: Path, trials: Iterable[Trial], known: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Keep what there is of the table, and return its rows."""
    rows = [row for trial in trials if (row := _row(trial))]
    write_json(out / "sweep.json", {"rows": rows, "judged": known})
    write_atomic(out / "sweep.md", f"# {out.name}\n\n{_table(rows)}\n")
    return rows


def _row(trial: Trial) -> dict[str, Any]:
    """Return what a run came to; nothing where there are no figures of episodes."""
    summary = trial.figures()
    figures = summary.get("sampled")
    if figures is None:
        return {}
    row = {"task": trial.task, "method": trial.method, "seed": trial.seed}
    found = {name: figures.get(name) for name in COLUMNS[3:-1]}
    return row | found | {"env_steps": summary.get("env_steps", 0)}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the runs, and what those that differ in the seed alone have in common."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["task"], row["method"]].append(row)
    common = [
        [task, method, len(group), *(_over_seeds([row[name] for row in group]) for name in FIGURES)]
        for (task, method), group in groups.items()
    ]
    single = [[_shown(row[name]) for name in COLUMNS] for row in rows]
    return "\n\n".join(
        [_markdown(["task", "method", "runs", *FIGURES], common), _markdown(COLUMNS, single)]
    )


def _over_seeds(values: Sequence[float | None]) -> str:
    """Return the mean of few values with the lowest and the highest, of five on IQM and interval.

    As in rliable (arXiv 2108.13264); its interval means nothing with fewer.
    """
    there = [value for value in values if value is not None]
    if not there:
        return ""
    interval = interquartile_interval(there)
    if interval is not None:
        return f"{interquartile_mean(there):.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    if len(there) == 1:
        return _shown(there[0])
    return f"{fmean(there):.3f} ({_shown(min(there))} to {_shown(max(there))})"


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _pages(out: Path, trials: Iterable[Trial], config: SweepConfig) -> list[str]:
    """Draw the finished runs of each task on each base side by side, and return the pages."""
    groups: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        if isinstance(trial.config, DiscoverConfig | FinetuneConfig) and trial.figures():
            groups[trial.task, trial.config.base].append(trial)
    tasks = [task for task, _ in groups]
    pages = []
    for (task, base), group in groups.items():
        name = "page" if tasks.count(task) == 1 else f"page-{group[0].seed}"
        runs = tuple(str(trial.folder) for trial in group)
        made = ReportConfig(runs, out / task / name, config.trust_code)
        try:
            pages.append(report(made)["page"])
        except ModeregError as error:
            print(f"modereg: there is no page of {task} on {base}: {error}")
    return pages
