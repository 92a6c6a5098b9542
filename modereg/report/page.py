"""One self-contained page about some runs: what was done, the table, the pictures, the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from modereg import metrics
from modereg.checkpoints import load_adapter
from modereg.recipes.build import Setup, discrete
from modereg.report import html
from modereg.report.commands import commands as commands_of
from modereg.report.entries import ReportEntry
from modereg.report.films import record_films
from modereg.report.gallery import pictures
from modereg.report.headline import headline
from modereg.report.paths import Paths, record_paths
from modereg.report.results import all_rows, results, summary
from modereg.report.seeds import over_seeds, seed_groups
from modereg.report.strips import Strips, side_of
from modereg.report.style import method_colors
from modereg.storage import read_json, write_atomic

__all__ = ["write_report"]


def write_report(
    folder: Path,
    setup: Setup,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    rows: Sequence[Mapping[str, Any]] | None = None,
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
    episodes: int = 400,
    seed: int = 12345,
    animate: bool = True,
) -> Path:
    """Draw the pictures into a folder as PNG, and write them all on one page beside them.

    Args:
        folder: where pictures and ``index.html`` go.
        setup: task and base policy, with which the trajectories are rolled out.
        entries: the methods, the base first; their names must differ.
        title: of the page.
        rows: of a ``summary.json``; they give ``seconds`` and ``env_steps`` where an entry has
            none, and those of other methods or further seeds stand in a table of their own.
        commands: what to type for the same, a line each.
        notes: sentences below the table of results.
        episodes: trajectories a method.
        seed: of the trajectories.
        animate: whether a moving picture stands beside each filmstrip, where the task has an image
            or renders; a reader who prefers less motion sees the strips alone.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: if an adapter was made for another base policy.
        ConfigurationError: if the task's names do not fit its feature, or it names an image that
            its environment lacks.
    """
    folder, rows = Path(folder), list(rows or ())
    together = [entry for runs in seed_groups(entries).values() for entry in runs]
    entries = [replace(entry, label=entry.label.replace("+-", "±")) for entry in together]
    palette = method_colors([entry.group or entry.name for entry in entries])
    colors = {entry.name: palette[entry.group or entry.name] for entry in entries}
    paths = {entry.name: _paths(setup, entry, episodes, seed) for entry in entries}
    parts = [headline(setup.task, entries, paths, colors)]
    parts += [f'<p class="lead">{escape(summary(setup, entries))}</p>', "<h2>Results</h2>"]
    parts += [results(setup, entries, rows, colors)]
    parts += [f'<p class="note">{escape(note.replace("+-", "±"))}</p>' for note in notes]
    parts += [_SEEDS + table] if (table := over_seeds(entries, colors)) else []
    parts += _films(folder, setup, entries, colors, seed, animate)
    parts += ["<h2>Pictures</h2>"]
    for name, data, alt, heading, caption in pictures(setup, entries, paths, colors):
        write_atomic(folder / f"{name}.png", data)
        parts.append(html.figure(data, alt, heading, caption))
    parts += _further_rows(entries, rows)
    parts += ["<h2>What the figures mean</h2>", html.definitions(metrics.__doc__ or ""), _MEANING]
    parts += _provenance(entries, commands)
    page = folder / "index.html"
    write_atomic(page, html.document(title, parts))
    return page


def _steering(setup: Setup, entry: ReportEntry) -> tuple[Any, Any]:
    """Return what writes the noise, None for the base, and the prior of its codes."""
    if entry.run_folder is None:
        return None, 1
    adapter = load_adapter(Path(entry.run_folder) / "adapter", setup.base)
    return adapter.steering, discrete(adapter.prior)


def _paths(setup: Setup, entry: ReportEntry, episodes: int, seed: int) -> Paths:
    return record_paths(setup, *_steering(setup, entry), num_episodes=episodes, seed=seed)


def _films(
    folder: Path,
    setup: Setup,
    entries: Sequence[ReportEntry],
    colors: Mapping[str, str],
    seed: int,
    animate: bool,
) -> list[str]:
    """Show an episode of each mode or code as pictures, of one run where several share a group."""
    if setup.task.filmstrip_key is None and not setup.task.renders:
        return []
    shown = [runs[0] for runs in seed_groups(entries).values()]
    films = {
        entry.name: record_films(setup, *_steering(setup, entry), entry.sampled, seed=seed)
        for entry in shown
    }
    number = sum(map(len, films.values()))
    height, width = next(film for row in films.values() for film in row).frames.shape[1:3]
    strips = Strips(folder, setup.task, side_of(number, (height, width)), animate)
    parts = [_FILMS]
    for entry in shown:
        parts.append(f"<h3>{html.dot(colors[entry.name])}{escape(entry.label)}</h3>")
        parts.append(strips.rows(entry.name, films[entry.name]))
    return parts


_MEANING = (
    '<p class="small">Sampled noise: as the policy was trained. Mean noise: the mean of the '
    "steering policy at every decision, which leaves it little but the code to choose a mode by. "
    "Effective codes: "
    "exp of the mutual information between the commanded code and the one that the discoverer "
    "reads off the episode. Environment steps count stage 1.</p>"
)

_SEEDS = (
    "<h2>Over seeds</h2><p>Mean over the runs that differ in the seed alone, and from the lowest "
    "to the highest of them; sampled noise.</p>"
)

_FILMS = (
    "<h2>Episodes</h2><p>Frames from the reset to the end, evenly over the episode. A policy with "
    "codes is told the code, which for each mode is the one that commands it most often, and "
    "steers by its mean noise. A policy without codes samples its noise, and each outcome of a "
    "few episodes is shown once.</p>"
)


_STEPS = (
    "<p>The runs one by one. On the same machine, with <code>OMP_NUM_THREADS=1</code>, they come "
    "to the same figures.</p>"
)


def _further_rows(entries: Sequence[ReportEntry], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all rows in a table of their own, unless the table of results has them all."""
    if len(rows) <= len(entries) and {row.get("method") for row in rows} <= {
        entry.name for entry in entries
    }:
        return []
    return ["<h2>All runs</h2>", all_rows(rows)]


def _provenance(entries: Sequence[ReportEntry], commands: Sequence[str]) -> list[str]:
    parts = []
    runs = [entry for entry in entries if entry.run_folder is not None]
    steps = commands_of([Path(entry.run_folder) for entry in runs if entry.run_folder is not None])
    steps = [] if set(steps) <= set(commands) else steps
    if commands or steps:
        parts.append("<h2>Commands</h2>")
        parts += [html.command_lines(commands)] if commands else []
        parts += [_STEPS if commands else "", html.command_lines(steps)] if steps else []
    if runs:
        parts.append("<h2>Versions and configurations</h2>")
        parts += _each_run(runs, _versions)
        parts += _each_run(runs, lambda e: html.details(e.label, html.preformatted(e.config or "")))
    return parts


def _each_run(runs: Sequence[ReportEntry], show: Callable[[ReportEntry], str]) -> list[str]:
    """Show something of each run, once where several have the same."""
    return list(dict.fromkeys(show(entry) for entry in runs))


def _versions(entry: ReportEntry) -> str:
    path = Path(entry.run_folder or "") / "versions.json"
    return html.versions(read_json(path)) if path.exists() else ""
