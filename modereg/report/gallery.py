"""Every picture of a page with its words: what is drawn depends on what there is to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modereg.recipes.build import Setup
from modereg.report.codes import draw_codes, draw_tables
from modereg.report.curves import draw_bound, draw_curves
from modereg.report.entries import ReportEntry
from modereg.report.paths import Paths
from modereg.report.projections import describe
from modereg.report.shares import draw_shares
from modereg.report.trajectories import By, draw_trajectories, make_scene

__all__ = ["Picture", "pictures"]

Picture = tuple[str, bytes, str, str, str]
"""Name of the file, PNG, alternative text, heading, caption."""


def pictures(
    setup: Setup,
    entries: Sequence[ReportEntry],
    paths: Mapping[str, Paths],
    colors: Mapping[str, str],
) -> list[Picture]:
    """Draw what the entries have something to show for."""
    labelled = setup.task.num_modes is not None
    coded = [entry for entry in entries if entry.num_codes > 1]
    found = [_trajectories(setup, entries, paths, colors)]
    if labelled:
        found += [_by_code(setup, coded, paths, colors)] if coded else []
        found.append(_shares(setup, entries, colors))
    if coded:
        found.append(_codes(entries, colors))
    if any(entry.series("mean_return") for entry in entries):
        found.append(_curves(entries, colors))
    if labelled and coded:
        found.append(_tables(setup, coded, colors))
    inferred = [entry for entry in entries if entry.series("bound_share")]
    if inferred:
        found.append(_bound(inferred, colors))
    return found


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
        "Where the episodes go",
        f"{len(some)} of each method, one colour a {kind}{failed}."
        + _projected(setup, entries, paths, None),
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
        "The same episodes by their codes",
        "One colour a code: a code that commands one mode is a bundle of its colour."
        + _projected(setup, coded, paths, "code"),
    )


def _projected(
    setup: Setup, entries: Sequence[ReportEntry], paths: Mapping[str, Paths], by: By | None
) -> str:
    """Say how paths of more than two dimensions were laid in the plane, if they were."""
    drawn = [paths[entry.name] for entry in entries]
    scene = make_scene(setup.task, drawn, by)
    return describe(scene.views, drawn[0].positions.shape[-1]) if scene.own is None else ""


def _shares(setup: Setup, entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    present = "; ".join(
        f"{entry.label}: {entry.sampled['present_modes']} of {setup.task.num_modes}"
        for entry in entries
    )
    return (
        "shares",
        draw_shares(setup.task, entries, colors),
        f"Share of each mode among the successful episodes. Modes present: {present}.",
        "Which modes the successes show",
        "Bars: share of each mode among the successful episodes, on a square-root scale. Outlines: "
        "the untouched base. A mode above the dashed line (1 %) counts as present.",
    )


def _codes(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    return (
        "codes",
        draw_codes(entries, colors),
        "Share of the episodes of each code, and its success or return.",
        "Each code by itself",
        "Left: its share of the episodes. Right: what it achieves; the dashed line is the base.",
    )


def _curves(entries: Sequence[ReportEntry], colors: Mapping[str, str]) -> Picture:
    return (
        "curves",
        draw_curves(entries, colors),
        "Success and behaviour of each method against environment steps.",
        "Success and behaviour over time",
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
        "What each code commands",
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
        "How much of the code an episode reveals, and what that is worth",
        "The variational bound on the mutual information of code and episode, unclamped, on "
        "held-out episodes, as a share of the codes' entropy H(p): 1 means that every episode "
        "gives its code away. Beside it, where there is one: the coefficient of that reward.",
    )
