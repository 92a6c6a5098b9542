"""The page and the pictures of a run, or of several side by side, beside their base."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modereg.errors import ConfigurationError
from modereg.paths import Paths
from modereg.recipes.config import (
    DiscoverConfig,
    FinetuneConfig,
    LogConfig,
    ReportConfig,
    TaskConfig,
    to_yaml,
)
from modereg.recipes.config.text import read_config
from modereg.recipes.progress import Progress
from modereg.recipes.setup import check_trust, set_up
from modereg.report import ReportEntry, write_report
from modereg.report.episodes import Archive, home_of
from modereg.report.folders import commands, read_summary

__all__ = ["DRAWN", "SEED", "report", "report_run"]

SEED, EPISODES, DRAWN = 12345, 1024, 400
"""Seed and number of the base's episodes, and how many are drawn at most."""

RunConfig = DiscoverConfig | FinetuneConfig


def report(config: ReportConfig) -> dict[str, Any]:
    """Write one page about runs; see :class:`~modereg.recipes.config.ReportConfig`.

    Returns:
        ``{"page": ...}``, the path of the page.

    Raises:
        ConfigurationError: if a folder holds no finished run of ``discover`` or ``finetune``, or
            the runs are of different tasks or base policies, or name code to import that is not
            trusted.
    """
    folders = [Path(folder) for folder in dict.fromkeys(config.runs)]
    if not folders:
        raise ConfigurationError("expected the folder of a run, or of several, got none; name one")
    runs = [_finished(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        where = f"the config.yaml in {folder}"
        check_trust(where, task=run.task.name, base=run.base, trust=config.trust_code)
    _check_alike(folders, runs)
    out = config.out or (folders[0] if len(folders) == 1 else Path("runs/report"))
    entries = _single(folders[0], runs[0]) if len(folders) == 1 else _several(folders, runs)
    title = entries[-1].label if len(folders) == 1 else _beside(entries)
    with Progress("report", shown=config.log.progress) as progress:
        return {"page": str(_write(Path(out), runs, folders, entries, title, progress))}


def report_run(config: RunConfig) -> Path:
    """Write pictures and ``index.html`` into the folder of a finished run.

    Returns:
        The page.
    """
    out = Path(config.out)
    entries = _single(out, config)
    with Progress("report", shown=config.log.progress) as progress:
        return _write(out, [config], [out], entries, entries[-1].label, progress)


def _finished(folder: Path) -> RunConfig:
    config = read_config(folder)
    if not isinstance(config, RunConfig):
        raise ConfigurationError(
            f"expected a run of discover or finetune, got {folder}, which made a base; name a run "
            "on it"
        )
    path = folder / "summary.json"
    if not path.is_symlink() and not path.exists():
        raise ConfigurationError(
            f"expected a finished run, got {folder} without summary.json; repeat its command with "
            "--resume first, or, if its modes were edited, judge it with evaluate"
        )
    read_summary(folder)  # before anything is rolled out
    return config


def _check_alike(folders: Sequence[Path], runs: Sequence[RunConfig]) -> None:
    for folder, run in zip(folders, runs, strict=True):
        if (run.base, run.task.name) != (runs[0].base, runs[0].task.name):
            raise ConfigurationError(
                f"expected runs of one task on one base policy, got {runs[0].task.name} on "
                f"{runs[0].base} in {folders[0]} and {run.task.name} on {run.base} in {folder}; "
                "report them one by one"
            )


def _single(folder: Path, config: RunConfig) -> list[ReportEntry]:
    """Return a run by what it is, after the stage 1 that it started from."""
    if isinstance(config, DiscoverConfig):
        return [ReportEntry("regularised", "after stage 1", folder)]
    if config.start is None and config.num_codes is None:
        return [ReportEntry("plain", "plain fine-tuning", folder)]
    tuned, start = ReportEntry("regularised", "with modereg", folder), Path(config.start or "")
    if config.start is None or not (start / "summary.json").exists():
        return [tuned]
    return [ReportEntry("stage_1", "after stage 1", start), tuned]


def _several(folders: Sequence[Path], runs: Sequence[RunConfig]) -> list[ReportEntry]:
    """Return runs by their folders; those that differ in the seed alone are of one group."""
    whole = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath([folder.parent for folder in whole]))
    labels = [folder.relative_to(common).as_posix() for folder in whole]
    kinds = [_but_for_seed(run) for run in runs]
    groups = [_common(labels, kinds, kind) for kind in kinds]
    return [
        ReportEntry(label, label, folder, group=group)
        for label, folder, group in zip(labels, folders, groups, strict=True)
    ]


def _beside(entries: Sequence[ReportEntry]) -> str:
    """Name few methods, count many."""
    groups = list(dict.fromkeys(entry.group or entry.label for entry in entries))
    return " beside ".join(groups) if len(groups) <= 3 else f"{len(entries)} runs"


def _common(labels: Sequence[str], kinds: Sequence[str], kind: str) -> str:
    """Name a group by the folder that its runs alone lie in, else by its first run."""
    own = [Path(label) for label, other in zip(labels, kinds, strict=True) if other == kind]
    others = [Path(label) for label, other in zip(labels, kinds, strict=True) if other != kind]
    shared = Path(os.path.commonpath([label.parent for label in own]))
    if len(own) == 1 or shared == Path() or any(shared in label.parents for label in others):
        return own[0].as_posix()
    return shared.as_posix()


def _but_for_seed(config: RunConfig) -> str:
    """Return what runs of several seeds share; each may have its own stage 1."""
    same: dict[str, Any] = {
        "seed": 0,
        "out": Path(),
        "log": LogConfig(),
        "page": True,
        "resume": False,
    }
    if isinstance(config, FinetuneConfig):
        same["start"] = None if config.start is None else "given"
    return type(config).__name__ + to_yaml(replace(config, **same))


def _write(
    out: Path,
    runs: Sequence[RunConfig],
    folders: Sequence[Path],
    entries: Sequence[ReportEntry],
    title: str,
    progress: Progress,
) -> Path:
    """Judge the base, and write the page with the task's options of the first run."""
    setup = set_up(runs[0].task, runs[0].base)
    judged = min(run.final_episodes or EPISODES for run in runs)
    archive = Archive(setup, runs[0].task.options, home_of(runs[0].base, out), SEED)
    progress.phase("base", min(EPISODES, judged))
    figures, base = archive.base(min(EPISODES, judged), DRAWN, progress.update)
    paths = _trajectories(archive, entries, min(DRAWN, judged), progress) | {"base": base}
    progress.phase("pictures")
    return write_report(
        out,
        setup,
        [ReportEntry("base", "base policy", None, {"sampled": figures}), *entries],
        title=f"modereg: {title}, {setup.task.name}",
        commands=[
            *commands(folders),
            shlex.join(["modereg", "report", *map(str, folders), "--out", str(out)]),
        ],
        notes=_notes(folders, [run.task for run in runs]),
        paths=paths,
        seed=SEED,
    )


def _trajectories(
    archive: Archive, entries: Sequence[ReportEntry], drawn: int, progress: Progress
) -> dict[str, Paths]:
    """Return the runs' trajectories: those that were kept, the others rolled out."""
    found = {entry.name: archive.find(entry) for entry in entries}
    missing = [entry for entry in entries if found[entry.name] is None]
    progress.phase("trajectories", drawn * len(missing))
    for index, entry in enumerate(missing):
        found[entry.name] = archive.roll_out(entry, drawn, _after(drawn * index, progress))
    return {name: paths.first(drawn) for name, paths in found.items() if paths is not None}


def _after(before: int, progress: Progress) -> Callable[[int], None]:
    """Return what shows the progress of a part that begins after so many of the whole."""
    return lambda done: progress.update(before + done)


def _notes(folders: Sequence[Path], tasks: Sequence[TaskConfig]) -> list[str]:
    if all(task.options == tasks[0].options for task in tasks):
        return []
    return [
        f"The runs' tasks differ in their options; trajectories and the base policy are shown with "
        f"those of {folders[0]}."
    ]
