"""One self-contained page about some runs: what was done, the table, the pictures, the commands."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from modereg import metrics
from modereg.files import write_atomic
from modereg.paths import Paths
from modereg.recipes.setup import Setup
from modereg.report.entries import ReportEntry, seed_groups
from modereg.report.episodes import record_paths, steering_of
from modereg.report.films import record_films
from modereg.report.folders import commands as commands_of
from modereg.report.folders import read_versions
from modereg.report.gallery import cards, columns_of, pictures
from modereg.report.results import over_seeds, results, summary
from modereg.report.strips import Shown, side_of, write_strips
from modereg.report.style import method_colors

__all__ = ["write_report"]


def write_report(
    folder: Path,
    setup: Setup,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
    paths: Mapping[str, Paths] | None = None,
    episodes: int = 400,
    seed: int = 12345,
) -> Path:
    """Draw the pictures into a folder as PNG, and write them all on one page beside them.

    Args:
        folder: where pictures and ``index.html`` go.
        setup: task and base policy, with which the trajectories are rolled out.
        entries: the methods, the base first; their names must differ.
        title: of the page.
        commands: what to type for the same, a line each.
        notes: sentences below the table of results.
        paths: trajectories of methods that have been rolled out before, by name.
        episodes: trajectories of each of the others.
        seed: of those.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: if a file of a run is damaged, or an adapter was made for another base.
        ConfigurationError: if the task's names do not fit its feature, or it names an image that
            its environment lacks.
    """
    folder, task = Path(folder), setup.task
    together = [entry for runs in seed_groups(entries).values() for entry in runs]
    entries = [replace(entry, label=_typeset(entry.label)) for entry in together]
    palette = method_colors([entry.group or entry.name for entry in entries])
    colors = {entry.name: palette[entry.group or entry.name] for entry in entries}
    paths = _paths(setup, entries, paths or {}, episodes, seed)
    shown = pictures(task, entries, paths, colors)
    for picture in shown:
        write_atomic(folder / f"{picture.name}.png", picture.data)
    found = cards(task, entries, paths, colors)
    some = paths[entries[0].name]
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            cards=found,
            columns=columns_of(len(found)),
            summary=summary(task, entries),
            results=results(task, entries, colors),
            notes=[_typeset(note) for note in notes],
            seeds=over_seeds(entries, colors),
            films=_films(folder, setup, entries, paths, seed),
            colors=colors,
            pictures=shown,
            kind="code" if task.num_modes is None else "mode",
            judged=some.success is not None,
            drawn=len(some),
            definitions=_items(metrics.__doc__ or ""),
            **_provenance(entries, commands),
        )
    )
    write_atomic(folder / "index.html", page)
    return folder / "index.html"


def _paths(
    setup: Setup,
    entries: Sequence[ReportEntry],
    given: Mapping[str, Paths],
    episodes: int,
    seed: int,
) -> dict[str, Paths]:
    """Return as many trajectories of each method, those that are missing rolled out."""
    found = {
        entry.name: given[entry.name]
        if entry.name in given
        else record_paths(*steering_of(setup, entry), num_episodes=episodes, seed=seed)
        for entry in entries
    }
    fewest = min(map(len, found.values()))
    return {name: each.first(fewest) for name, each in found.items()}


def _films(
    folder: Path,
    setup: Setup,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    seed: int,
) -> list[tuple[ReportEntry, list[Shown]]]:
    """Show an episode of each mode or code as pictures, of one run where several share a group."""
    if setup.task.filmstrip_key is None and not setup.task.renders:
        return []
    chosen = [runs[0] for runs in seed_groups(entries).values()]
    films = [
        record_films(
            *steering_of(setup, entry),
            entry.sampled,
            longest=int(paths[entry.name].lengths.max()),
            seed=seed,
        )
        for entry in chosen
    ]
    height, width = films[0][0].frames.shape[1:3]
    side = side_of(sum(map(len, films)), (height, width))
    return [
        (entry, write_strips(folder, setup.task, entry.name, row, side))
        for entry, row in zip(chosen, films, strict=True)
    ]


def _provenance(entries: Sequence[ReportEntry], commands: Sequence[str]) -> dict[str, Any]:
    """Return commands, versions and options, once where several runs have the same."""
    runs = [(entry, entry.run_folder) for entry in entries if entry.run_folder is not None]
    steps = commands_of([folder for _, folder in runs])
    versions = [read_versions(folder) for _, folder in runs]
    texts = [(entry.label, (entry.config or "").rstrip()) for entry, _ in runs]
    return {
        "whole": commands,
        "steps": [] if set(steps) <= set(commands) else steps,
        "versions": [found for i, found in enumerate(versions) if found not in versions[:i]],
        "configurations": list(dict.fromkeys(texts)),
    }


def _typeset(text: str) -> str:
    return text.replace("+-", "±")


@cache
def _environment() -> Environment:
    """Return what renders the templates: text is escaped, and what is missing is an error."""
    environment = Environment(
        loader=PackageLoader("modereg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": _data_uri, "marked": _marked}
    return environment


def _data_uri(data: bytes) -> str:
    """Return a PNG or WebP as an address that holds its bytes."""
    media = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{media};base64,{base64.b64encode(data).decode()}"


def _items(docstring: str) -> list[str]:
    """Return the bullet list of a docstring."""
    found: list[str] = []
    for line in docstring.splitlines():
        if line.startswith("- "):
            found.append(line[2:])
        elif line.startswith("  ") and found:
            found[-1] += " " + line.strip()
    return found


def _marked(text: str) -> Markup:
    """Escape a text; ``*x*`` is emphasised, ````x```` is code."""
    marked = re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text)))
    return Markup(_typeset(re.sub(r"\*(\w[^*]*)\*", r"<em>\1</em>", marked)))
