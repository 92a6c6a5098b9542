"""What a report is made of: methods, their figures, and what their run folders hold."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from modereg.storage import read_json

__all__ = ["ReportEntry", "StageOne", "amount", "read_curves"]


@dataclass(frozen=True)
class StageOne:
    """What discovery cost a run and what it left.

    Attributes:
        env_steps: environment steps of stage 1.
        figures: of the policy that stage 1 gave, sampled; empty if its folder is gone.
    """

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
            line with an interval; None stands alone.
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
        return read_json(Path(self.run_folder) / "summary.json")

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
    def curves(self) -> list[dict[str, float]]:
        """Rows of ``curves.csv``, numbers only; empty for the base."""
        return [] if self.run_folder is None else read_curves(Path(self.run_folder))

    @cached_property
    def config(self) -> str | None:
        """Text of ``config.yaml``, None for the base."""
        if self.run_folder is None:
            return None
        return (Path(self.run_folder) / "config.yaml").read_text()

    @property
    def start(self) -> Path | None:
        """Run folder of the stage 1 that a run started from, as it was named there."""
        start = (yaml.safe_load(self.config) or {}).get("start") if self.config else None
        return None if start is None else Path(start)

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of the run and of its stage 1, None where either is unknown."""
        if self.run_folder is None:
            return None
        folders = [Path(self.run_folder), *([] if self.start is None else [self.start])]
        files = [folder / "timing.json" for folder in folders]
        if not all(file.exists() for file in files):
            return None
        return float(sum(read_json(file)["seconds"] for file in files))

    @cached_property
    def stage_one(self) -> StageOne | None:
        """Stage 1 of a run that started from one, None otherwise."""
        if self.start is None:
            return None
        path = self.start / "summary.json"
        if path.exists():
            summary = read_json(path)
            return StageOne(float(summary["env_steps"]), summary["sampled"])
        return StageOne(self.curves[0]["env_steps"], {}) if self.curves else None

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return environment steps, stage 1 counted, and a figure in each evaluation of the run.

        ``coef`` is that of each iteration if it was logged, else the option's all along.
        """
        if name == "coef":
            return self._coefficients()
        rows = [row for row in self.curves if "mean_return" in row and name in row]
        return [(row["env_steps"], row[name]) for row in rows]

    def _coefficients(self) -> list[tuple[float, float]]:
        steps = [row["env_steps"] for row in self.curves if "env_steps" in row]
        logged = [(row["env_steps"], row["coef"]) for row in self.curves if "coef" in row]
        if logged or not steps or not self.config:
            return logged
        value = (yaml.safe_load(self.config) or {}).get("coef")
        return [] if value is None else [(steps[0], float(value)), (steps[-1], float(value))]

    def final(self, name: str) -> tuple[float, float] | None:
        """Return environment steps and a figure of the evaluation that closed the run."""
        steps, value = self.figures.get("env_steps"), self.sampled.get(name)
        return None if steps is None or value is None else (float(steps), float(value))


def read_curves(folder: Path) -> list[dict[str, float]]:
    """Read the rows of a run's ``curves.csv``; entries that are no numbers are left out."""
    path = folder / "curves.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(row: Mapping[str, str | None]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text or "")
        except ValueError:
            continue
    return numbers


def amount(entry: ReportEntry, rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return ``env_steps`` or ``seconds`` of an entry: its own, its folder's, else its row's.

    The seconds of a folder include those of the stage 1 that it started from.
    """
    if entry.figures.get(name) is not None:
        return float(entry.figures[name])
    if name == "seconds" and entry.seconds is not None:
        return entry.seconds
    found = [row.get(name) for row in rows if row.get("method") == entry.name]
    return None if not found or found[0] is None else float(found[0])
