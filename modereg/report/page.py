"""One self-contained page about some runs: what was done, the table, the pictures, the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from modereg import metrics
from modereg.checkpoints import load_adapter
from modereg.recipes.build import Setup, discrete
from modereg.report import html
from modereg.report.codes import draw_codes, draw_tables
from modereg.report.curves import draw_bound, draw_curves
from modereg.report.entries import ReportEntry
from modereg.report.figures import draw_shares, draw_trajectories
from modereg.report.paths import Paths, record_paths
from modereg.report.results import all_rows, results, summary
from modereg.report.seeds import over_seeds
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

    Returns:
        The path of the page.

    Raises:
        CheckpointError: if an adapter was made for another base policy.
    """
    folder, rows = Path(folder), list(rows or ())
    palette = method_colors([entry.group or entry.name for entry in entries])
    colors = {entry.name: palette[entry.group or entry.name] for entry in entries}
    paths = {entry.name: _paths(setup, entry, episodes, seed) for entry in entries}
    parts = [f'<p class="lead">{escape(summary(setup, entries))}</p>', "<h2>Results</h2>"]
    parts += [results(setup, entries, rows, colors)]
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    parts += [_SEEDS + table] if (table := over_seeds(entries, colors)) else []
    parts += ["<h2>Pictures</h2>"]
    parts += [_picture(folder, *picture) for picture in _pictures(setup, entries, paths, colors)]
    parts += _further_rows(entries, rows)
    parts += ["<h2>What the figures mean</h2>", html.definitions(metrics.__doc__ or ""), _MEANING]
    parts += _provenance(entries, commands)
    page = folder / "index.html"
    write_atomic(page, html.document(title, parts))
    return page


def _paths(setup: Setup, entry: ReportEntry, episodes: int, seed: int) -> Paths:
    if entry.run_folder is None:
        return record_paths(setup, None, 1, num_episodes=episodes, seed=seed)
    adapter = load_adapter(Path(entry.run_folder) / "adapter", setup.base)
    return record_paths(
        setup, adapter.steering, discrete(adapter.prior), num_episodes=episodes, seed=seed
    )


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

Picture = tuple[str, bytes, str, str, str]
"""Name of the file, PNG, alternative text, heading, caption."""


def _pictures(
    setup: Setup,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> list[Picture]:
    """Draw what the entries have something to show for."""
    labelled = setup.task.num_modes is not None
    coded = [entry for entry in entries if entry.num_codes > 1]
    pictures = [_trajectories(setup, entries, paths, colors)]
    if labelled:
        pictures += [_by_code(setup, coded, paths, colors)] if coded else []
        pictures.append(_shares(setup, entries, colors))
    if coded:
        pictures.append(_codes(entries, colors))
    if any(entry.series("mean_return") for entry in entries):
        pictures.append(_curves(entries, colors))
    if labelled and coded:
        pictures.append(_tables(setup, coded, colors))
    inferred = [entry for entry in entries if entry.series("bound_share")]
    if inferred:
        pictures.append(_bound(inferred, colors))
    return pictures


def _trajectories(
    setup: Setup,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> Picture:
    kind, some = "code" if setup.task.num_modes is None else "mode", next(iter(paths.values()))
    failed = "" if some.success is None else "; failed episodes in faint grey"
    return (
        "trajectories",
        draw_trajectories(setup.task, entries, paths, colors),
        f"Trajectories of {', '.join(e.label for e in entries)}, coloured by {kind}{failed}.",
        f"{len(some)} episodes of each method.",
        f"One colour a {kind}{failed}.",
    )


def _by_code(
    setup: Setup,
    coded: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> Picture:
    return (
        "trajectories_by_code",
        draw_trajectories(setup.task, coded, paths, colors, by="code"),
        f"The same trajectories of {', '.join(e.label for e in coded)}, coloured by code.",
        "The same episodes by their codes.",
        "One colour a code: a code that commands one mode is a bundle of its colour.",
    )


def _shares(setup: Setup, entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    present = "; ".join(
        f"{entry.label}: {entry.sampled['present_modes']} of {setup.task.num_modes}"
        for entry in entries
    )
    return (
        "shares",
        draw_shares(setup.task, entries, colors),
        f"Share of each mode among the successful episodes. Modes present: {present}.",
        "Which modes the successes show.",
        "Bars: share of each mode among the successful episodes, on a square-root scale. Outlines: "
        "the untouched base. A mode above the dashed line (1 %) counts as present.",
    )


def _codes(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    return (
        "codes",
        draw_codes(entries, colors),
        "Share of the episodes of each code, and its success or return.",
        "Each code by itself.",
        "Left: its share of the episodes. Right: what it achieves; the dashed line is the base.",
    )


def _curves(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    return (
        "curves",
        draw_curves(entries, colors),
        "Success and behaviour of each method against environment steps.",
        "Success and behaviour on the same budget.",
        "Environment steps count stage 1 (shaded): dotted lines lead from the base to what stage 1 "
        "gave (open circle), solid lines are fine-tuning, filled circles its final evaluation "
        "on more episodes. Of several seeds: their mean, and from the lowest to the highest.",
    )


def _tables(setup: Setup, entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    nmi = "; ".join(f"{entry.label}: NMI {entry.sampled['code_mode_nmi']:.2f}" for entry in entries)
    return (
        "codes_and_modes",
        draw_tables(setup.task, entries, colors),
        f"Probability of success in each mode given each code. {nmi}.",
        "What each code commands.",
        "Each row is a code: the probability that an episode with it succeeds in a mode. Rows are "
        "sorted by their most frequent mode, so codes that command one mode each lie on the "
        "diagonal. NMI is the normalised mutual information of code and mode.",
    )


def _bound(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    return (
        "bound",
        draw_bound(entries, colors),
        "Share of the codes' entropy that the discoverer reads off an episode, and the coefficient "
        "of the intrinsic reward, over time.",
        "How much of the code an episode reveals, and what that is worth.",
        "The variational bound on the mutual information of code and episode, unclamped, on "
        "held-out episodes, as a share of the codes' entropy H(p): 1 means that every episode "
        "gives its code away. Beside it, where there is one: the coefficient of that reward.",
    )


def _picture(folder: Path, name: str, data: bytes, alt: str, heading: str, caption: str) -> str:
    write_atomic(folder / f"{name}.png", data)
    return html.figure(data, alt, heading, caption)


def _further_rows(entries: Sequence[ReportEntry], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all rows in a table of their own, unless the table of results has them all."""
    if len(rows) <= len(entries) and {row.get("method") for row in rows} <= {
        entry.name for entry in entries
    }:
        return []
    return ["<h2>All runs</h2>", all_rows(rows)]


def _provenance(entries: Sequence[ReportEntry], commands: Sequence[str]) -> list[str]:
    parts = []
    if commands:
        parts += ["<h2>Commands</h2>", *map(html.preformatted, commands)]
    runs = [entry for entry in entries if entry.run_folder is not None]
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
