"""The runs that a sweep's file asks for: every method on every task with every seed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from modereg.arguments import parse
from modereg.errors import ConfigurationError
from modereg.files import read_json, read_text
from modereg.recipes.config import EvaluateConfig
from modereg.recipes.runs import Run
from modereg.recipes.setup import check_trust
from modereg.suggestions import did_you_mean

__all__ = ["Trial", "read_trials"]

ENTRIES = ("tasks", "methods", "seeds")
COMMANDS = ("pretrain", "from-scratch", "discover", "finetune", "evaluate")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
PLACE = re.compile(r"\{([^{}]*)\}")
OURS = ("--out", "--seed", "--resume", "--no-resume")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        task: its name in the file.
        method: likewise.
        seed: of the run.
        folder: of the run, ``TASK/METHOD/SEED`` in the sweep's.
        arguments: of ``modereg``.
        config: what they become.
        needs: names of the runs that it goes on from.
    """

    task: str
    method: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    config: Any
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """How it is called in what is printed."""
        return _name(self.task, self.method, self.seed)

    def finished(self, known: Mapping[str, Sequence[str]]) -> bool:
        """Whether its results are there.

        Args:
            known: the arguments that finished evaluations had, by name; runs know their own.

        Raises:
            ConfigurationError: if its folder holds a run with other options, apart from its budget.
        """
        if isinstance(self.config, EvaluateConfig):
            there = (self.folder / "evaluation.json").exists()
            return there and list(known.get(self.name, ())) == list(self.arguments)
        if not (self.folder / "config.yaml").exists():
            return False
        with Run(replace(self.config, resume=True)) as run:
            return run.finished

    def figures(self) -> dict[str, Any]:
        """Return its summary; nothing where it has none."""
        name = "evaluation.json" if isinstance(self.config, EvaluateConfig) else "summary.json"
        path = self.folder / name
        found: dict[str, Any] = read_json(path) if path.exists() else {}
        return found


def read_trials(file: Path, out: Path, *, trust: bool = False) -> list[Trial]:
    """Return the runs that a file asks for, each after those that it goes on from.

    The file has ``seeds``, a list of numbers; ``tasks``, by name the options that all methods get;
    and ``methods``, by name a command with its options. In both ``{seed}`` is the seed, ``{task}``
    the task's name, and the name of a method, ``{stage1}``, the folder of its run of the same task
    and seed. Nothing in it is executed but modereg's own commands, and no shell reads it.

    Args:
        file: YAML.
        out: folder of the runs.
        trust: whether code that it names may be imported.

    Raises:
        ConfigurationError: if something of this is missing, or a command's options are wrong.
        CheckpointError: if the file cannot be read.
    """
    tasks, methods, seeds = _read(file)
    order = _ordered(methods, file)
    trials = [
        _Lines(file, out, tasks, methods, task, seed).trial(method)
        for task in tasks
        for method in order
        for seed in seeds
    ]
    for trial in trials:
        task, base = trial.config.task.name, getattr(trial.config, "base", None) or ""
        check_trust(str(file), task=task, base=base, trust=trust)
    return trials


def _read(file: Path) -> tuple[dict[str, list[str]], dict[str, list[str]], list[int]]:
    try:
        values = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        sentence = " ".join(str(error).split())
        raise ConfigurationError(
            f"expected YAML in {file}, got a damaged text: {sentence}"
        ) from None
    if not isinstance(values, dict) or set(values) != set(ENTRIES):
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ConfigurationError(f"expected {', '.join(ENTRIES)} in {file}, got {found}")
    seeds = values["seeds"]
    whole = isinstance(seeds, list) and seeds and all(type(each) is int for each in seeds)
    if not whole or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigurationError(f"expected seeds, different whole numbers, in {file}, got {seeds}")
    tasks, methods = (_lines(values[name], name, file) for name in ("tasks", "methods"))
    for name, words in methods.items():
        if not words or words[0] not in COMMANDS:
            got = words[0] if words else "nothing"
            raise ConfigurationError(
                f"expected method {name} in {file} to begin with one of {', '.join(COMMANDS)}, got "
                f"{got!r}.{did_you_mean(got, COMMANDS)}"
            )
    for name, words in (tasks | methods).items():
        if ours := [word for word in words if word.split("=")[0] in OURS]:
            raise ConfigurationError(
                f"expected {name} in {file} without {ours[0]}, which the sweep sets; leave it out"
            )
    return tasks, methods, seeds


def _lines(values: Any, what: str, file: Path) -> dict[str, list[str]]:
    """Return the words of each line, by its name."""
    texts = isinstance(values, dict) and all(isinstance(text, str) for text in values.values())
    if not texts or not values:
        raise ConfigurationError(
            f"expected {what} in {file}, each a name and a line of options, got {values!r}"
        )
    found = {}
    for name, text in values.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in ("seed", "task"):
            raise ConfigurationError(
                f"expected {what} in {file} with names of letters, digits, dots and dashes, other "
                f"than seed and task, got {name!r}"
            )
        try:
            found[name] = shlex.split(text)
        except ValueError as error:
            raise ConfigurationError(
                f"expected a line of options for {name} in {file}, got {text!r} ({error})"
            ) from None
    return found


def _ordered(methods: Mapping[str, Sequence[str]], file: Path) -> list[str]:
    """Return the methods' names, each after those that it goes on from."""
    left, order = dict(methods), list[str]()
    while left:
        ready = [name for name in left if not set(_places(left[name])) & set(left)]
        if not ready:
            raise ConfigurationError(
                f"expected methods in {file} that go on from others, got {', '.join(left)}, which "
                "wait for each other or themselves"
            )
        order += ready
        for name in ready:
            del left[name]
    return order


def _places(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        yield from PLACE.findall(word)


@dataclass(frozen=True)
class _Lines:
    """The lines of a file for one task and seed."""

    file: Path
    out: Path
    tasks: Mapping[str, Sequence[str]]
    methods: Mapping[str, Sequence[str]]
    task: str
    seed: int

    def trial(self, method: str) -> Trial:
        """Return the run of a method."""
        words = [*self.methods[method], *self.tasks[self.task]]
        folder, needed = self._folder(method), set(_places(words)) & set(self.methods)
        made = [self._filled(word) for word in words]
        made += ["--out", str(folder), "--seed", str(self.seed)]
        if made[0] != "evaluate":
            made += ["--resume"]
        if made[0] in ("discover", "finetune") and "--page" not in made:
            made += ["--no-page"]
        return Trial(
            self.task,
            method,
            self.seed,
            folder,
            tuple(made),
            self._parsed(method, made),
            frozenset(_name(self.task, name, self.seed) for name in needed),
        )

    def _folder(self, method: str) -> Path:
        return self.out / _name(self.task, method, self.seed)

    def _filled(self, word: str) -> str:
        known = {name: str(self._folder(name)) for name in self.methods}
        known |= {"seed": str(self.seed), "task": self.task}
        for name in _places([word]):
            if name not in known:
                raise ConfigurationError(
                    f"expected {', '.join(f'{{{each}}}' for each in known)} in {self.file}, got "
                    f"{{{name}}}.{did_you_mean(name, known)}"
                )
        return PLACE.sub(lambda found: known[found[1]], word)

    def _parsed(self, method: str, words: Sequence[str]) -> Any:
        try:
            return parse(words)
        except SystemExit:  # what is wrong has been printed
            raise ConfigurationError(
                f"expected options of modereg {words[0]} for method {method} on task {self.task} "
                f"in {self.file}, got: {shlex.join(words)}"
            ) from None


def _name(task: str, method: str, seed: int) -> str:
    return f"{task}/{method}/{seed}"
