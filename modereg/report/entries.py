"""What a report is made of: methods, their figures, and how the runs of several seeds belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from modereg.checkpoints import load_adapter
from modereg.files import read_text
from modereg.modes import modes_of
from modereg.recipes.config.text import RunConfig, read_config
from modereg.report.folders import read_curves, read_seconds, read_summary

__all__ = ["ReportEntry", "StageOne", "seed_groups"]


@dataclass(frozen=True)
class StageOne:
    """What discovery cost a run and what it left."""

    env_steps: float
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class ReportEntry:
    """One method of a report.

    Attributes:
        name: short name, as in the rows of a summary: ``base``, ``plain``, ``regularised`` ...
        label: what the page calls it.
        run_folder: run folder of ``discover`` or ``finetune``; None is the base policy itself.
        metrics: what ``evaluate`` returned or a run's summary: ``sampled`` and perhaps
            ``deterministic``, ``env_steps`` and ``seconds``. Empty takes the run folder's summary.
        group: name that the runs of several seeds of one method share, which are drawn as one
            line with a band; None stands alone.
    """

    name: str
    label: str
    run_folder: Path | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """The metrics given, or the run's own summary."""
        if self.metrics or self.run_folder is None:
            return self.metrics
        return read_summary(self.run_folder)

    @property
    def sampled(self) -> Mapping[str, Any]:
        """Figures with sampled noise: a :class:`~modereg.metrics.BehaviourMetrics` as dict."""
        return self.figures.get("sampled", self.figures)

    @property
    def deterministic(self) -> Mapping[str, Any] | None:
        """Figures with the mean noise, None where nobody took them."""
        return self.figures.get("deterministic")

    @property
    def num_codes(self) -> int:
        """K."""
        return len(self.sampled["code_shares"])

    @cached_property
    def code_names(self) -> list[str]:
        """Name of the mode that each code is of, its number where that has none."""
        names = [str(code) for code in range(self.num_codes)]
        if self.run_folder is not None and (self.run_folder / "adapter").is_dir():
            for mode in modes_of(load_adapter(self.run_folder / "adapter")):
                if not mode.name.isdecimal():
                    for code in mode.codes:
                        names[code] = mode.name
        return names

    @cached_property
    def curves(self) -> list[dict[str, float]]:
        """Rows of ``curves.csv``, numbers only; empty for the base."""
        return [] if self.run_folder is None else read_curves(self.run_folder)

    @cached_property
    def options(self) -> RunConfig | None:
        """What the run was started with, None for the base."""
        return None if self.run_folder is None else read_config(self.run_folder)

    @property
    def config(self) -> str | None:
        """Text of ``config.yaml``, None for the base."""
        return None if self.run_folder is None else read_text(self.run_folder / "config.yaml")

    @property
    def start(self) -> Path | None:
        """Run folder of the stage 1 that a run started from, as it was named there."""
        start = getattr(self.options, "start", None)
        return None if start is None else Path(start)

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds: those given, else of the run and of its stage 1; None if unknown."""
        if self.run_folder is None or "seconds" in self.figures:
            return self.figures.get("seconds")
        folders = [part for part in (self.run_folder, self.start) if part is not None]
        if not all((part / "timing.json").exists() for part in folders):
            return None
        return sum(map(read_seconds, folders))

    @cached_property
    def stage_one(self) -> StageOne | None:
        """Stage 1 of a run that started from one, None otherwise."""
        if self.start is None:
            return None
        if (self.start / "summary.json").exists():
            summary = read_summary(self.start)
            return StageOne(float(summary["env_steps"]), summary["sampled"])
        return StageOne(self.curves[0]["env_steps"], {}) if self.curves else None

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return environment steps, stage 1 counted, and a figure in each evaluation of the run.

        ``coef``, the weight of the intrinsic reward, is that of each iteration.
        """
        judged = name != "coef"
        rows = [row for row in self.curves if name in row and (not judged or "mean_return" in row)]
        return [(row["env_steps"], row[name]) for row in rows]

    def final(self, name: str) -> tuple[float, float] | None:
        """Return environment steps and a figure of the evaluation that closed the run."""
        steps, value = self.figures.get("env_steps"), self.sampled.get(name)
        return None if steps is None or value is None else (float(steps), float(value))


def seed_groups(entries: Sequence[ReportEntry]) -> dict[str, list[ReportEntry]]:
    """Return the runs of each group, those alone by their names, in order."""
    found: dict[str, list[ReportEntry]] = {}
    for entry in entries:
        found.setdefault(entry.group or entry.name, []).append(entry)
    return found
