"""Run folders: configuration, versions, logs, checkpoints, and how a run is taken up again."""

from __future__ import annotations

import csv
import io
import platform
import random
import shutil
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl.record.loggers.common import Logger

from modereg.errors import CheckpointError, ConfigurationError
from modereg.recipes.config import LogConfig, from_yaml, to_yaml
from modereg.recipes.events import Advanced, Started
from modereg.recipes.progress import Progress
from modereg.recipes.summaries import Summary
from modereg.storage import load_state, read_json, save_state, write_atomic, write_json

__all__ = ["Run", "seed_everything"]

CHECKPOINT, CONFIG, CURVES, SUMMARY = "checkpoint.pt", "config.yaml", "curves.csv", "summary.json"
TIMING, VERSIONS = "timing.json", "versions.json"
LIBRARIES = ("modereg", "torch", "torchrl", "tensordict", "diffusers", "gymnasium", "numpy")


def seed_everything(seed: int, *parts: int) -> int:
    """Seed torch, numpy and random from a run's seed and further numbers, such as the iteration.

    Zeros at the end do not count: numpy's ``SeedSequence`` reads them as nothing.

    Returns:
        A seed for the environment, in [0, 2^31).
    """
    state = np.random.SeedSequence([seed, *parts]).generate_state(2)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[0]))
    random.seed(int(state[0]))
    return int(state[1]) % 2**31


class Run:
    """A folder that one configuration owns.

    A run is a sequence of iterations. Each begins with a seed made of the run's seed and its own
    number, and a checkpoint closes it: so a run that is interrupted and resumed goes through the
    same numbers as one that never was. A run without checkpoints starts over.

    As a context manager it closes what it shows, however it ends.

    Args:
        config: dataclass with ``out``, ``seed``, ``log`` and, if it has checkpoints, ``resume``.

    Raises:
        ConfigurationError: if the folder belongs to another configuration, or to an interrupted
            run and ``resume`` is not set.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.folder = config, Path(config.out)
        self.rows: list[dict[str, Any]] = []
        self._loggers: list[Logger] | None = None
        self._progress = Progress(self.folder.name, shown=config.log.progress)
        self._started, self._spent = time.perf_counter(), 0.0
        resume = getattr(config, "resume", False)
        self.resumed = resume and (self.folder / CHECKPOINT).exists()
        if not _holds_work(self.folder):
            write_json(self.folder / VERSIONS, _versions())
            write_atomic(self.folder / CONFIG, to_yaml(_identity(config)))
        elif (self.folder / CONFIG).exists():
            self._check_owner(resume)
        else:
            raise ConfigurationError(
                f"expected an empty or new folder, got {self.folder} with other files in it; name "
                "another with --out"
            )

    def _check_owner(self, resume: bool) -> None:
        try:
            owner = from_yaml(type(self.config), (self.folder / CONFIG).read_text())
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{self.folder} belongs to a run of another kind ({error}); name another folder "
                "with --out"
            ) from None
        if _comparable(owner) != _comparable(self.config):
            raise ConfigurationError(
                f"{self.folder} belongs to a run with other options "
                f"({', '.join(_differences(owner, self.config))}); name another folder with --out"
            )
        if not resume and hasattr(self.config, "resume") and not self.finished:
            raise ConfigurationError(
                f"{self.folder} holds an interrupted run with the same options; add --resume to go "
                "on with it, or name another folder with --out"
            )

    @property
    def finished(self) -> bool:
        """Whether the run has written its summary."""
        return (self.folder / SUMMARY).exists()

    @property
    def summary(self) -> Summary:
        """What :meth:`finish` wrote."""
        return Summary(read_json(self.folder / SUMMARY), self.folder)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent on the run, those before an interruption included."""
        return self._spent + time.perf_counter() - self._started

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, None where there is none; restore the curves.

        Raises:
            CheckpointError: if the checkpoint is damaged.
        """
        if not (self.folder / CHECKPOINT).exists():
            return None
        state = load_state(self.folder / CHECKPOINT)
        if set(state) != {"rows", "seconds", "state"}:
            raise CheckpointError(f"expected a run's checkpoint in {self.folder / CHECKPOINT}")
        self.rows, self._spent = state["rows"], state["seconds"]
        return state["state"]

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to the curves and to the loggers."""
        self.rows.append(row)
        step = int(row.get("env_steps", len(self.rows)))
        for logger in self._open_loggers():
            _write_row(logger, row, step)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Save the state and the curves so far, atomically."""
        whole = {"rows": self.rows, "seconds": self.seconds, "state": state}
        save_state(self.folder / CHECKPOINT, whole)

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        """Begin to show a part of the work.

        Args:
            name: what is done.
            total: how much there is to do, None if nobody knows.
            done: how much of it an earlier process did.
        """
        self._progress.phase(name, total, done)

    def progress(self, done: int, total: int | None = None, **figures: float) -> None:
        """Show how much of the phase is done, with some figures beside it."""
        self._progress.update(done, total, **figures)

    def started(self) -> Started:
        """Return the first event."""
        return Started(self.folder, self.resumed)

    def advanced(self) -> Advanced:
        """Return the event of the newest row."""
        now = self._progress.current
        return Advanced(now.name, self.rows[-1], now.done, now.total, now.seconds_left)

    def finish(self, summary: dict[str, Any]) -> Summary:
        """Write curves, time and summary, which closes the run."""
        self.close()
        write_atomic(self.folder / CURVES, _csv(self.rows))
        write_json(self.folder / TIMING, {"seconds": round(self.seconds, 2)})
        write_json(self.folder / SUMMARY, summary)
        return Summary(summary, self.folder)

    def close(self) -> None:
        """End what is shown."""
        self._progress.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_loggers(self) -> list[Logger]:
        """Open the loggers afresh and replay what a checkpoint had: nothing is logged twice."""
        if self._loggers is None:
            shutil.rmtree(self.folder / "logs", ignore_errors=True)
            self._loggers = _make_loggers(self.folder, self.config.log)
            for position, row in enumerate(self.rows[:-1]):
                for logger in self._loggers:
                    _write_row(logger, row, int(row.get("env_steps", position + 1)))
        return self._loggers


def _holds_work(folder: Path) -> bool:
    """Whether a folder holds more than the options of a run, which an early error leaves behind."""
    if not folder.exists():
        return False
    remains = (CONFIG, VERSIONS, f".{CONFIG}.", f".{VERSIONS}.")
    return not all(entry.name.startswith(remains) for entry in folder.iterdir())


def _make_loggers(folder: Path, config: LogConfig) -> list[Logger]:
    from torchrl.record.loggers import CSVLogger

    loggers: list[Logger] = [CSVLogger("csv", log_dir=str(folder / "logs"))]
    if config.tensorboard:
        from torchrl.record.loggers.tensorboard import TensorboardLogger

        loggers.append(TensorboardLogger("tensorboard", log_dir=str(folder / "logs")))
    if config.wandb is not None:
        from torchrl.record.loggers.wandb import WandbLogger

        loggers.append(WandbLogger(folder.name, project=config.wandb))
    return loggers


def _write_row(logger: Logger, row: dict[str, Any], step: int) -> None:
    for name, value in row.items():
        if isinstance(value, int | float):
            logger.log_scalar(name, float(value), step=step)


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    scalars = [name for name in names if not any(isinstance(r.get(name), list) for r in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, scalars, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def _identity(config: Any) -> Any:
    return replace(config, resume=False) if hasattr(config, "resume") else config


def _comparable(config: Any) -> dict[str, Any]:
    """Leave out what does not change the numbers: where they go, and how they are shown."""
    values = asdict(_identity(config))
    return {name: value for name, value in values.items() if name not in ("out", "log")}


def _differences(owner: Any, config: Any) -> list[str]:
    theirs, ours = _comparable(owner), _comparable(config)
    return [
        f"{name} {theirs[name]!r} there, {ours[name]!r} here"
        for name in ours
        if theirs[name] != ours[name]
    ]
