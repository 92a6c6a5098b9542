"""Tasks and policies by name: what the command line's references stand for.

Third parties register their own by entry points:

- group ``modereg.tasks``: a factory, called as ``factory(**options)`` for ``task:NAME`` and as
  ``factory(ID, **options)`` for ``NAME:ID``, that returns a :class:`~modereg.tasks.Task`;
- group ``modereg.policies``: an object with ``can_load(folder) -> bool`` and
  ``load(folder) -> GenerativePolicy``.

Only what the caller names, and what is installed with an entry point, is imported; nothing is
imported because a file says so.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Protocol

from torchrl.envs import EnvBase

from modereg.errors import CheckpointError, ConfigurationError, MissingDependencyError
from modereg.policies import GenerativePolicy
from modereg.suggestions import did_you_mean
from modereg.tasks import (
    Task,
    avoid_task,
    gaussian_mixture_task,
    gymnasium_task,
)
from modereg.tasks.environment import environment_task, parameters_of
from modereg.tasks.visual import visual_avoid_task

__all__ = [
    "POLICY_GROUP",
    "TASK_GROUP",
    "PolicyLoader",
    "names_code",
    "policy_loader",
    "resolve_policy",
    "resolve_task",
]

POLICY_GROUP = "modereg.policies"
"""Entry-point group of loaders of pretrained policies."""

TASK_GROUP = "modereg.tasks"
"""Entry-point group of task factories."""

TASKS: dict[str, Callable[..., Task]] = {
    "avoid": avoid_task,
    "gaussian_mixture": gaussian_mixture_task,
    "visual_avoid": visual_avoid_task,
}
"""The tasks that modereg ships, as ``task:NAME``."""

FORMS = "task:NAME, gymnasium:ID, maniskill:ID, mujoco:NAME or module:factory"


class PolicyLoader(Protocol):
    """What an entry point of the group ``modereg.policies`` holds."""

    def can_load(self, folder: Path) -> bool:
        """Say whether the folder holds a policy of this kind, by a cheap look at its files."""

    def load(self, folder: Path) -> GenerativePolicy:
        """Load it."""


def resolve_task(reference: str, **options: Any) -> Task:
    """Return the task that a reference names.

    Args:
        reference: ``task:NAME`` for a task of modereg or of an entry point, ``gymnasium:ID``,
            ``maniskill:ID`` (or another prefix that an entry point gives), or ``module:factory``,
            where the factory returns a :class:`~modereg.tasks.Task`, or an environment, which
            becomes one (see :func:`~modereg.tasks.environment_task`).
        **options: given to the factory. ``max_steps`` also serves one that returns an environment
            and does not take it.

    Raises:
        ConfigurationError: if nothing has that name, or an option is unknown to the factory.
        MissingDependencyError: if an optional library is not installed.
    """
    prefix, separator, rest = reference.partition(":")
    if not separator or not prefix or not rest:
        known = [f"task:{name}" for name in _task_names()]
        raise ConfigurationError(
            f"Expected a task as {FORMS}, got {reference!r}.{did_you_mean(reference, known)}"
        )
    if prefix == "task":
        return _call(reference, _named_task(rest), options=options)
    if prefix == "gymnasium":
        if ":" in rest:  # a module that registers the id
            _find_in_working_folder()
        return _call(reference, gymnasium_task, rest, options=options)
    points = _entry_points(TASK_GROUP)
    if prefix in points:
        return _call(reference, _load(points[prefix]), rest, options=options)
    return _from_factory(reference, options, prefixes=["task", "gymnasium", *points])


def resolve_policy(reference: str, **options: Any) -> GenerativePolicy:
    """Return the pretrained policy that a reference names.

    Args:
        reference: a folder, whose loader is the first entry point of the group
            ``modereg.policies`` that says it can load it; or ``module:factory``.
        **options: given to the factory; a folder takes none.

    Raises:
        ConfigurationError: if there is neither such a folder nor such a factory, or what the
            factory returns is no GenerativePolicy.
        CheckpointError: if no loader knows the files in the folder.
    """
    folder = Path(reference)
    if folder.is_dir():
        if options:
            raise ConfigurationError(f"The policy in a folder takes no options, got {options}.")
        return _load_folder(folder)
    if ":" not in reference:
        near = [str(part) for part in folder.parent.glob("*") if part.is_dir()]
        raise ConfigurationError(
            f"Expected a policy as a folder or as module:factory, and {reference!r} is no folder."
            f"{did_you_mean(reference, near)}"
        )
    return _expect_policy(reference, _import_object(reference)(**options))


def names_code(reference: str) -> bool:
    """Say whether a reference names code to import, beyond what is installed as a plug-in.

    ``module:factory`` does, and ``gymnasium:module:id``. Whoever reads one from a file must not
    follow it unless the user says so.
    """
    prefix, separator, rest = reference.partition(":")
    if not separator or Path(reference).is_dir():
        return False
    return ":" in rest or prefix not in {"task", "gymnasium", *_entry_points(TASK_GROUP)}


def policy_loader(name: str) -> Any:
    """Return what an entry point of the group ``modereg.policies`` holds, by its name.

    Raises:
        ConfigurationError: if none has that name.
    """
    points = _entry_points(POLICY_GROUP)
    if name not in points:
        raise ConfigurationError(
            f"There is no loader of policies named {name!r}, only {', '.join(sorted(points))}."
            f"{did_you_mean(name, points)}"
        )
    return _load(points[name])


def _task_names() -> list[str]:
    return sorted({*TASKS, *_entry_points(TASK_GROUP)})


def _named_task(name: str) -> Callable[..., Task]:
    if name in TASKS:
        return TASKS[name]
    points = _entry_points(TASK_GROUP)
    if name not in points:
        names = _task_names()
        raise ConfigurationError(
            f"There is no task named {name!r}, only {', '.join(names)}.{did_you_mean(name, names)}"
        )
    factory: Callable[..., Task] = _load(points[name])
    return factory


def _from_factory(reference: str, options: dict[str, Any], prefixes: Sequence[str]) -> Task:
    try:
        factory = _import_object(reference)
    except ConfigurationError as error:
        hint = did_you_mean(reference.partition(":")[0], prefixes)
        raise ConfigurationError(f"{error} A task is {FORMS}.{hint}") from error
    limit = None
    if "max_steps" in options and not _accepts(factory, "max_steps"):
        options = dict(options)
        limit = options.pop("max_steps")
    _check_options(reference, factory, options)
    counted = parameters_of(factory).get("num_envs")
    required = counted is not None and counted.default is Parameter.empty
    made = factory(**({"num_envs": 1} | options if required else options))
    if isinstance(made, Task):
        if limit is not None:
            raise ConfigurationError(
                f"{reference!r} makes a task with its own time limit and takes no max_steps."
            )
        return made
    if isinstance(made, EnvBase):
        made.close(raise_if_closed=False)
        limit = options.get("max_steps", limit)
        return environment_task(reference, partial(factory, **options), limit)
    raise ConfigurationError(
        f"The factory {reference!r} must return a Task or an EnvBase, got {type(made).__name__}."
    )


def _call(reference: str, factory: Callable[..., Any], *args: Any, options: dict[str, Any]) -> Task:
    _check_options(reference, factory, options)
    try:
        signature(factory).bind(*args, **options)
    except TypeError as error:
        raise ConfigurationError(f"{reference!r} cannot be made: {error}.") from error
    task: Task = factory(*args, **options)
    return task


def _accepts(factory: Callable[..., Any], name: str) -> bool:
    parameters = parameters_of(factory)
    keywords = any(part.kind is Parameter.VAR_KEYWORD for part in parameters.values())
    return name in parameters or keywords


def _check_options(reference: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    for name in options:
        if not _accepts(factory, name):
            known = sorted(parameters_of(factory))
            raise ConfigurationError(
                f"{reference!r} has no option {name!r}; its options are {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )


def _load_folder(folder: Path) -> GenerativePolicy:
    points = _entry_points(POLICY_GROUP)
    for name, loader in _usable_loaders(points):
        if loader.can_load(folder):
            return _expect_policy(f"{folder} ({name})", loader.load(folder))
    raise CheckpointError(
        f"No loader knows the files in {str(folder)!r}; installed loaders of policies: "
        f"{', '.join(sorted(points)) or 'none'}. A folder of diffusers' parts is saved by "
        "DiffusersPolicy(denoiser, scheduler, ...).save_pretrained(folder), or comes by a function "
        f"as module:factory.{_policy_within(folder)}"
    )


def _usable_loaders(points: dict[str, EntryPoint]) -> Iterator[tuple[str, PolicyLoader]]:
    """Yield the loaders; one that is broken is named in a warning and passed over."""
    for name in sorted(points):
        try:
            yield name, _load(points[name])
        except MissingDependencyError as error:
            warnings.warn(f"{error} It is passed over.", stacklevel=4)


def _policy_within(folder: Path) -> str:
    """Point from the run folder of ``pretrain`` to the policy that lies in it."""
    return f" Did you mean {str(folder / 'policy')!r}?" if (folder / "policy").is_dir() else ""


def _expect_policy(reference: str, policy: Any) -> GenerativePolicy:
    if not isinstance(policy, GenerativePolicy):
        raise ConfigurationError(
            f"{reference!r} must give a GenerativePolicy, got {type(policy).__name__}; "
            "as_generative_policy makes one from a function of noise and observations."
        )
    return policy


def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever a third party's module raises when it is imported
        raise MissingDependencyError(
            f"The plug-in {point.name!r} ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; install what it needs, or remove it."
        ) from error


def _find_in_working_folder() -> None:
    """Let modules of the working folder be found, last: none may stand for an installed library."""
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


def _import_object(reference: str) -> Any:
    """Import ``module:name``, where the name may have dots."""
    module_name, _, name = reference.partition(":")
    _find_in_working_folder()
    try:
        value: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        here = [path.stem for path in Path.cwd().glob("*.py")]
        hint = did_you_mean(module_name, here)
        raise ConfigurationError(f"There is no module {module_name!r}.{hint}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigurationError(
                f"The module {module_name!r} has no {name!r}.{did_you_mean(part, dir(value))}"
            )
        value = getattr(value, part)
    return value
