"""Run folders: who owns them, versions, logs, checkpoints, and how a run is taken up again."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torchrl.record.loggers.common import Logger

from modereg.errors import (
    CheckpointError,
    ConfigurationError,
    MissingDependencyError,
    NonFiniteError,
)
from modereg.files import read_json, write_atomic, write_json
from modereg.recipes.config import LogConfig, from_yaml, to_yaml
from modereg.recipes.summaries import Summary
from modereg.storage import load_state, save_state

__all__ = ["EDITED", "Run", "check_finished", "check_origin", "judged_figures"]

CHECKPOINT, CONFIG, CURVES, SUMMARY = "checkpoint.pt", "config.yaml", "curves.csv", "summary.json"
TIMING, VERSIONS, LOCK = "timing.json", "versions.json", ".lock"
EDITED = "edited.json"
"""Stands in the folder of a run's edited modes: the run's summary, and how they were edited."""

LIBRARIES = ("modereg", "torch", "torchrl", "tensordict", "diffusers", "gymnasium", "numpy")
SHOWN = ("out", "log", "page", "resume")
"""Options that change no number: where results go, and how they are shown."""


class Run:
    """A folder that one configuration owns, and one process at a time.

    A recipe goes through steps, each of which may close with a checkpoint of everything that
    changes, random generators included: so a run that is interrupted and resumed goes through the
    same numbers as one that never was. As a context manager it holds the folder's lock.

    Args:
        config: dataclass with ``out``, ``seed``, ``log``, ``resume``; its class names the
            ``artefact`` that a finished run holds, and the options that are a ``budget``, which a
            resumed run may have changed.

    Raises:
        ConfigurationError: if the folder belongs to another configuration or another process, or to
            an interrupted run and ``resume`` is not set.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.folder = config, Path(config.out)
        self.rows: list[dict[str, Any]] = []
        self._loggers: list[Logger] | None = None
        self._started, self._spent = time.perf_counter(), 0.0
        _refuse_foreign(self.folder)
        self._lock = _take_lock(self.folder)
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def _take_up(self) -> None:
        """Make the folder this run's, or find that it is."""
        self.extended = False
        if not _holds_work(self.folder):
            write_json(self.folder / VERSIONS, {"started": _versions()})
            write_atomic(self.folder / CONFIG, to_yaml(replace(self.config, resume=False)))
        else:
            self._check_owner()
        self.resumed = self.config.resume and (self.folder / CHECKPOINT).exists()

    def _check_owner(self) -> None:
        if (self.folder / EDITED).exists():
            raise ConfigurationError(
                f"{self.folder} holds the modes of another run, edited; name another folder with "
                "--out, or start from it with --start"
            )
        try:
            owner = from_yaml(type(self.config), (self.folder / CONFIG).read_text())
        except (ConfigurationError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self.folder} belongs to a run of another kind ({error}); name another folder "
                "with --out"
            ) from None
        other = _differences(owner, self.config)
        budget = {name for name in other if self.config.resume and name in self.config.budget}
        if set(other) - budget:
            raise ConfigurationError(
                f"{self.folder} belongs to a run with other options "
                f"({', '.join(other.values())}); name another folder with --out"
            )
        if budget:
            self._extend()
        elif not self.config.resume and not self.finished:
            raise ConfigurationError(
                f"{self.folder} holds an interrupted run with the same options; add --resume to go "
                "on with it, or name another folder with --out"
            )

    def _extend(self) -> None:
        """Go on with another budget: what was finished is not any more."""
        self.extended = True
        write_atomic(self.folder / CONFIG, to_yaml(replace(self.config, resume=False)))
        (self.folder / SUMMARY).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether the run has its summary and what it was to make."""
        if not (self.folder / SUMMARY).exists():
            return False
        made = self.folder / self.config.artefact
        if not made.is_dir() or not self.summary:
            raise CheckpointError(
                f"expected a finished run in {self.folder}, which has a summary, got one without "
                f"{self.config.artefact if self.summary else 'figures in it'}; remove "
                f"{self.folder / SUMMARY} and add --resume to make it again"
            )
        return True

    @property
    def summary(self) -> Summary:
        """What :meth:`finish` wrote."""
        values = read_json(self.folder / SUMMARY)
        if not isinstance(values, dict):
            raise CheckpointError(f"expected a summary in {self.folder / SUMMARY}, got {values!r}")
        return Summary(values, self.folder)

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
        if not isinstance(state, dict) or set(state) != {"rows", "seconds", "state", "versions"}:
            raise CheckpointError(f"expected a run's checkpoint in {self.folder / CHECKPOINT}")
        self._compare_versions(state["versions"])
        self.rows, self._spent = state["rows"], state["seconds"]
        return state["state"]

    def _compare_versions(self, before: Mapping[str, str]) -> None:
        now = _versions()
        changed = {name: now[name] for name in now if before.get(name) != now[name]}
        if not changed:
            return
        named = [f"{name} {before.get(name)} then, {there} now" for name, there in changed.items()]
        warnings.warn(
            f"{self.folder} goes on with other versions ({', '.join(named)}): its numbers may "
            "differ from those of a run that was not interrupted",
            stacklevel=5,
        )
        known = read_json(self.folder / VERSIONS) if (self.folder / VERSIONS).exists() else {}
        write_json(self.folder / VERSIONS, known | {"resumed": now})

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to the curves and to the loggers."""
        self.rows.append(row)
        for logger in self._open_loggers():
            _write_row(logger, row, int(row.get("env_steps", len(self.rows))))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Save the state and the curves so far, atomically.

        Raises:
            NonFiniteError: if a tensor in it is not finite; the last checkpoint stays.
        """
        for name, value in _tensors(state):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"expected a finite state to save, got NaN or infinity in {name}; the last "
                    f"checkpoint in {self.folder} stays: lower the learning rate, or look for huge "
                    "values among observations and rewards"
                )
        whole = {"rows": self.rows, "seconds": self.seconds, "state": state}
        save_state(self.folder / CHECKPOINT, whole | {"versions": _versions()})

    def finish(self, summary: dict[str, Any]) -> Summary:
        """Write curves, time and summary, which closes the run."""
        write_atomic(self.folder / CURVES, _csv(self.rows))
        write_json(self.folder / TIMING, {"seconds": round(self.seconds, 2)})
        write_json(self.folder / SUMMARY, summary)
        return Summary(summary, self.folder)

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested dictionaries and lists, each with where it is."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in pairs:
            yield from _tensors(part, f"{name}.{key}".lstrip("."))


def check_finished(folder: Path) -> None:
    """Check that a run has come to its adapter.

    Raises:
        ConfigurationError: if it has not.
    """
    if not (folder / "adapter").is_dir():
        raise ConfigurationError(
            f"expected a finished run of discover or finetune, got {folder} without an adapter; "
            "repeat its command with --resume first"
        )


def judged_figures(folder: Path | str) -> dict[str, Any]:
    """Return what was judged of a run with sampled noise; nothing where its modes were edited."""
    path = Path(folder) / SUMMARY
    figures: dict[str, Any] = read_json(path)["sampled"] if path.exists() else {}
    return figures


def check_origin(state: Mapping[str, Any], origin: Mapping[str, str | None]) -> None:
    """Check that a checkpoint goes on with what it was made with.

    Args:
        state: has ``origin``, as it was then.
        origin: names and fingerprints of what the run starts from, as they are now.

    Raises:
        CheckpointError: if one differs.
    """
    before = state["origin"]
    changed = [name for name in origin if before.get(name) != origin[name]]
    if changed:
        raise CheckpointError(
            f"expected the {' and the '.join(changed)} that the interrupted run began with, got "
            "another in its place; put it back, or begin a new run in another folder"
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with other files than a run's, before anything is written into it."""
    if folder.is_dir() and _holds_work(folder) and not (folder / CONFIG).is_file():
        raise ConfigurationError(
            f"expected an empty or new folder, got {folder} with other files in it; name another "
            "with --out"
        )


def _take_lock(folder: Path) -> int | None:
    """Lock a folder for this process, until the descriptor is closed or the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigurationError(
            f"expected a folder, or none yet, got the file {folder}; name another with --out"
        ) from None
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigurationError(
            f"{folder} belongs to a run that another process is in the middle of; wait for it, or "
            "name another folder with --out"
        ) from None
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


def _holds_work(folder: Path) -> bool:
    """Whether a folder holds more than the options of a run, which an early error leaves behind."""
    remains = (CONFIG, VERSIONS, LOCK, f".{CONFIG}.", f".{VERSIONS}.")
    return not all(entry.name.startswith(remains) for entry in folder.iterdir())


def _make_loggers(folder: Path, config: LogConfig) -> list[Logger]:
    from torchrl.record.loggers import CSVLogger

    loggers: list[Logger] = [CSVLogger("csv", log_dir=str(folder / "logs"))]
    if config.tensorboard and _has("tensorboard"):
        from torchrl.record.loggers.tensorboard import TensorboardLogger

        loggers.append(TensorboardLogger("tensorboard", log_dir=str(folder / "logs")))
    if config.wandb is not None:
        loggers.append(_wandb_logger(folder, config.wandb))
    return loggers


def _wandb_logger(folder: Path, project: str) -> Logger:
    """Return the logger of the folder's own run at W&B, the same one when the run is resumed."""
    if not _has("wandb"):
        raise MissingDependencyError(
            "expected wandb for --log.wandb, which is not installed: pip install wandb"
        )
    from torchrl.record.loggers.wandb import WandbLogger

    place = folder / "wandb_run.json"
    if not place.exists():
        write_json(place, {"id": os.urandom(6).hex()})
    return WandbLogger(folder.name, project=project, id=read_json(place)["id"], resume="allow")


def _has(library: str) -> bool:
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _differences(owner: Any, config: Any) -> dict[str, str]:
    """Return which options that change numbers differ, each with a sentence about it."""
    theirs, ours = (_flat(yaml.safe_load(to_yaml(one))) for one in (owner, config))
    return {
        name: f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in {**theirs, **ours}
        if name.split(".")[0] not in SHOWN and theirs.get(name) != ours.get(name)
    }
