"""Any TorchRL environment as a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torchrl.envs import EnvBase, SerialEnv, StepCounter, TransformedEnv

from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.tasks.base import Task

__all__ = ["environment_task", "parameters_of"]


def environment_task(
    name: str, make: Callable[..., EnvBase], max_steps: int | None = None, **layout: Any
) -> Task:
    """Return a task around an environment of which nothing else is known.

    Its policy reads every observation of floating-point type.

    Args:
        name: name of the task.
        make: returns an environment. If it takes ``num_envs`` (and ``device``), it returns a batch
            of that size; else one without batch size, of which several go into a ``SerialEnv``.
        max_steps: time limit in environment steps, imposed by a ``StepCounter``, which truncates.
            An environment whose attribute ``max_steps`` says the same, or which is asked because
            this is None, keeps to its limit by itself.
        **layout: other fields of its :class:`~modereg.layout.Layout`, by default 8 played actions.

    Raises:
        ConfigurationError: if there is no time limit, or a batch that ``num_envs`` cannot set.
    """
    env = _make_env(make, None, None)
    own, counts = (getattr(env, name, None) for name in ("max_steps", "success_counts"))
    imposed = None if max_steps == own else max_steps
    truncates = imposed is not None or "truncated" in env.done_keys
    specs = env.observation_spec.items(include_nested=True, leaves_only=True)
    keys = tuple(key for key, spec in specs if spec.dtype.is_floating_point)
    env.close(raise_if_closed=False)
    steps = own if max_steps is None else max_steps
    if steps is None:
        raise ConfigurationError(f"The environment of {name!r} has no max_steps; pass max_steps.")
    limit = "truncates" if truncates else "terminates"
    fields: dict[str, Any] = {"execute": 8, "time_limit": limit} | layout
    return Task(
        name=name,
        make_env=partial(_make_env, make, imposed, counts),
        layout=Layout(max_steps=steps, **fields),
        observation_keys=keys,
    )


def parameters_of(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the parameters of a factory by name.

    Those of an environment class are read from its ``__init__``, since TorchRL's metaclass hides
    them.
    """
    if isinstance(factory, partial):
        return parameters_of(factory.func)
    if isinstance(factory, type):
        initialize: Callable[..., None] = factory.__init__  # type: ignore[misc]
        return dict(list(signature(initialize).parameters.items())[1:])
    return dict(signature(factory).parameters)


def _make_env(
    make: Callable[..., EnvBase],
    max_steps: int | None,
    success_counts: str | None,
    num_envs: int = 1,
    device: Any = None,
    **options: Any,
) -> EnvBase:
    names = parameters_of(make)
    if "num_envs" in names:
        placed = {"device": device} if "device" in names and device is not None else {}
        env = make(num_envs=num_envs, **placed, **options)
    elif num_envs == 1:
        env = make(**options)
    else:
        env = SerialEnv(num_envs, partial(make, **options))
        if success_counts is not None:  # which nobody sees of those within
            env.success_counts = success_counts
    if "num_envs" not in names and len(env.batch_size) > (num_envs > 1):
        raise ConfigurationError(
            f"The factory's environment has the batch size {tuple(env.batch_size)}, which cannot "
            "be changed; let the factory take num_envs, or return an environment without one."
        )
    if max_steps is not None:
        env = TransformedEnv(env, StepCounter(max_steps))
    return env if device is None else env.to(device)
