"""The modes of a run: a list of them, a copy in which they are edited, and one of them alone."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modereg.checkpoints import Adapter, load_adapter, save_adapter
from modereg.discovery.verdict import REACHED
from modereg.errors import ConfigurationError, ModeregError
from modereg.files import replace_folder, write_atomic, write_json
from modereg.metrics import PRESENT, blocked_success, replanned_success, success_table
from modereg.modes import Mode, edit_modes, find_mode, modes_of
from modereg.paths import load_paths, path_key
from modereg.recipes.config import ExportConfig, ModesConfig
from modereg.recipes.config.text import read_config
from modereg.recipes.runs import CONFIG, EDITED, SUMMARY, VERSIONS, check_finished
from modereg.recipes.setup import check_trust, set_up
from modereg.report import ReportEntry
from modereg.report.folders import read_figures
from modereg.report.numbers import number
from modereg.report.style import INK
from modereg.report.trajectories import draw_trajectories

__all__ = ["export", "modes", "table"]

TRIES = 3
"""Tries of an episode where a mode is blocked."""

PICTURE = "modes.png"

Figures = Mapping[str, Any]


def modes(config: ModesConfig) -> dict[str, Any]:
    """List the modes of a run, edited ones in a new folder; see :class:`ModesConfig`.

    Figures are those of the run's last evaluation, with sampled noise. Of a mode of several codes
    they are weighed as the codes are drawn.

    Returns:
        ``run``, ``modes`` (a dictionary each), ``blocked`` (None where no table says what codes
        do), and ``picture`` (its path, None where no episodes are kept); JSON-able.

    Raises:
        ConfigurationError: if an edit cannot be made, the new folder is not empty, or the picture
            needs code that is not trusted.
        CheckpointError: if the run has no adapter, or a file of it is damaged.
    """
    run = folder = Path(config.run)
    adapter, summary = _read(run)
    if config.out is not None:
        adapter = edit_modes(
            adapter,
            names=_pairs("name", config.name),
            merge=config.merge,
            drop=config.drop,
            favour=_factors(config.favour),
        )
        folder = config.out
    found = modes_of(adapter)
    rows = [_row(mode, found, summary) for mode in found]
    picture = _draw(config, adapter, rows, summary) if config.picture else None
    if config.out is not None:
        _write(folder, run, adapter, summary, _command(config), picture)
    elif picture is not None:
        write_atomic(folder / PICTURE, picture)
    result = {
        "run": str(folder),
        "modes": rows,
        "blocked": _blocked(found, summary["sampled"]),
        "picture": None if picture is None else str(folder / PICTURE),
    }
    if config.json is not None:
        write_json(config.json, result)
    return result


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a run's adapter with some of its modes alone; see :class:`ExportConfig`.

    Returns:
        ``policy``, the new folder, and ``modes``, their names.

    Raises:
        ConfigurationError: if there is no such mode, or the new folder is not empty.
        CheckpointError: if the run has no adapter, or a file of it is damaged.
    """
    run = Path(config.run)
    adapter, summary = _read(run)
    every = modes_of(adapter)
    kept = [find_mode([mode for mode in every if mode.share > 0.0], name) for name in config.mode]
    dropped = [mode.name for mode in every if mode not in kept]
    words = ["modereg", "export", config.run, "--mode", *config.mode, "--out", str(config.out)]
    _write(config.out, run, edit_modes(adapter, drop=dropped), summary, shlex.join(words))
    return {"policy": str(config.out), "modes": list(dict.fromkeys(mode.name for mode in kept))}


def _read(run: Path) -> tuple[Adapter, dict[str, Any]]:
    """Return the adapter of a run and the summary of what its codes do."""
    check_finished(run)
    return load_adapter(run / "adapter"), read_figures(_summary(run))


def _summary(run: Path) -> Path:
    return run / EDITED if (run / EDITED).exists() else run / SUMMARY


def _write(
    out: Path,
    run: Path,
    adapter: Adapter,
    summary: Mapping[str, Any],
    command: str,
    picture: bytes | None = None,
) -> None:
    """Write a run folder of an edited adapter, whole or not at all."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(
            f"expected a new folder, got {out}, which is there; name another with --out"
        )
    origin = summary["edited"]["run"] if "edited" in summary else str(run)
    found = [mode for mode in modes_of(adapter) if mode.share > 0.0]
    commands = [_row(mode, found, summary)["commands"] for mode in found]
    if "commanded" in adapter.extra and None not in commands:
        adapter.extra["commanded"] = sum(commands) / len(commands)
    with replace_folder(out) as new:
        for name in (CONFIG, VERSIONS):
            if (run / name).exists():
                shutil.copyfile(run / name, new / name)
        write_json(new / EDITED, {**summary, "edited": {"run": origin, "command": command}})
        save_adapter(new / "adapter", adapter)
        if picture is not None:
            write_atomic(new / PICTURE, picture)


def _command(config: ModesConfig) -> str:
    """Return the command line of an edit."""
    words = ["modereg", "modes", config.run]
    given = {"name": [config.name], "merge": config.merge, "drop": [config.drop]}
    for option, groups in (given | {"favour": [config.favour]}).items():
        for group in groups:
            words += [f"--{option}", *group] if group else []
    return shlex.join([*words, "--out", str(config.out)])


def _pairs(option: str, given: Sequence[str]) -> dict[str | int, str]:
    """Return what stands behind ``=``, by what stands before it."""
    found: dict[str | int, str] = {}
    for text in given:
        mode, equals, value = text.partition("=")
        if not equals or mode in found:
            raise ConfigurationError(
                f"expected --{option} MODE=VALUE, each mode once, got {' '.join(given)}"
            )
        found[mode] = value
    return found


def _factors(given: Sequence[str]) -> dict[str | int, float]:
    pairs = _pairs("favour", given)
    try:
        return {mode: float(value) for mode, value in pairs.items()}
    except ValueError:
        raise ConfigurationError(
            f"expected --favour MODE=NUMBER, such as left=2, got {' '.join(given)}"
        ) from None


def _row(mode: Mode, every: Sequence[Mode], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a mode."""
    figures: Figures = summary["sampled"]
    verdicts = {each["code"]: each for each in summary.get("verdict", {}).get("codes", ())}
    reached = _reached(mode, every, figures)
    hits, reason = None if reached is None else reached[mode.name], ""
    commands = None if hits is None else hits >= REACHED
    if mode.share == 0.0:
        commands, reason = False, "dropped"
    elif commands is False:
        reason = verdicts.get(mode.code, {}).get("reason") or _instead(mode, reached)
    return {
        "mode": mode.name,
        "codes": list(mode.codes),
        "share": mode.share,
        "hits": hits,
        "success": _weighed(mode, figures.get("per_code_success")),
        "return": _weighed(mode, figures["per_code_return"]),
        "commands": commands,
        "reason": reason,
    }


def _weights(mode: Mode) -> Tensor:
    """Return p(z | mode) of its codes, alike where it was dropped."""
    weights = torch.tensor(mode.weights, dtype=torch.float64)
    weights = weights if mode.share > 0.0 else torch.ones_like(weights)
    return weights / weights.sum()


def _weighed(mode: Mode, values: Sequence[float | None] | None) -> float | None:
    """Return the mean of a figure over a mode's codes; None where one that is drawn has none."""
    pairs = [
        (float(weight), None if values is None else values[code])
        for code, weight in zip(mode.codes, _weights(mode), strict=True)
        if weight > 0.0
    ]
    if any(value is None for _, value in pairs):
        return None
    return sum(weight * value for weight, value in pairs if value is not None)


def _reached(mode: Mode, every: Sequence[Mode], figures: Figures) -> dict[str, float] | None:
    """Return how often a mode's episodes succeed in each mode, by q; None where nobody asked q."""
    if figures.get("code_table") is None or _weighed(mode, figures["per_code_return"]) is None:
        return None
    row = _weights(mode) @ success_table(figures, by="code")[list(mode.codes)]
    return {other.name: float(row[list(other.codes)].sum()) for other in every}


def _instead(mode: Mode, reached: Mapping[str, float] | None) -> str:
    """Say what a mode that does not command does."""
    others = {name: share for name, share in (reached or {}).items() if name != mode.name}
    if not others:
        return ""
    most = max(others, key=lambda name: others[name])
    fails = 1.0 - sum((reached or {}).values())
    return "fails" if fails >= others[most] else f"shows {most}"


def _blocked(found: Sequence[Mode], figures: Figures) -> dict[str, float] | None:
    """Return the success where a mode is blocked, as a mean over the modes that are shown.

    What is blocked is a mode of the label, where there is one, and else what q reads as a mode.
    """
    by = "mode" if figures.get("code_mode_table") is not None else "code"
    if by == "code" and figures.get("code_table") is None:
        return None
    every = success_table(figures, by=by)
    probs = every.new_zeros(len(every))
    for mode in found:
        probs[list(mode.codes)] = every.new_tensor(mode.weights)
    if by == "code":
        every = torch.stack([every[:, list(mode.codes)].sum(-1) for mode in found], -1)
    shown = probs @ every
    present = shown >= PRESENT * shown.sum()
    drawn = every[probs > 0.0]
    once = blocked_success(drawn)[present] @ probs[probs > 0.0]
    return {
        "tries": TRIES,
        "once": float(once.mean()),
        "replanned": float(replanned_success(drawn, TRIES)[present].mean()),
    }


def _draw(
    config: ModesConfig,
    adapter: Adapter,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> bytes | None:
    """Draw the kept episodes of each mode in a panel, as PNG; None where none are kept."""
    home = Path(summary.get("edited", {}).get("run", config.run))
    if not any(home.glob("paths-*")):
        return None
    made: Any = read_config(Path(config.run))
    where = f"the config.yaml in {config.run}"
    check_trust(where, task=made.task.name, base=made.base, trust=config.trust_code)
    try:
        setup = set_up(made.task, made.base)
    except ModeregError as error:
        raise ConfigurationError(f"{error} --no-picture does without the policy.") from error
    task, options, steering = setup.task, made.task.options, adapter.steering
    key = path_key(task, options, setup.num_envs, adapter.base_fingerprint, steering)
    kept = load_paths(home, key)
    if kept is None:
        return None
    entries, paths = [], {}
    for row in rows:
        name, played = row["mode"], kept.paths.of_codes(row["codes"])
        if len(played):
            shown = {"success": row["success"], "mean_return": row["return"], "code_shares": [1.0]}
            entries.append(ReportEntry(name, name, metrics=shown))
            paths[name] = played
    return draw_trajectories(task, entries, paths, dict.fromkeys(paths, INK))


def table(result: Mapping[str, Any]) -> str:
    """Lay the modes out in lines, with what is blocked below them."""
    rows = [("mode", "codes", "share", "hits", "success", "return", "commands")]
    for row in result["modes"]:
        codes = " ".join(map(str, row["codes"]))
        figures = (number(row[name], ".2f") for name in ("share", "hits", "success", "return"))
        commands = {True: "yes", False: "no", None: number(None)}[row["commands"]]
        reason = f": {row['reason']}" if row["reason"] else ""
        rows.append((row["mode"], codes, *figures, commands + reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if place in (0, 1, 6) else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    blocked, picture = result["blocked"], result["picture"]
    if blocked is not None:
        lines.append(
            f"Where one of them is blocked: success {blocked['once']:.2f}, and "
            f"{blocked['replanned']:.2f} within {blocked['tries']} tries that choose another."
        )
    return "\n".join([*lines, *([] if picture is None else [f"Picture: {picture}"])])
