"""The testing kit: contract checks, and tiny environments and policies to run them on.

An adapter of a third party runs the same checks as modereg's own tests, by importing them from
here or as the fixtures of the pytest plug-in :mod:`modereg.testing.plugin`. The names are imported
when they are first used, so that the plug-in costs a run of pytest nothing that does not use it.
Hypothesis strategies for tests of one's own are in :mod:`modereg.testing.strategies`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg.testing.chunks import check_chunk
    from modereg.testing.discovery import check_discoverer
    from modereg.testing.environments import CountingEnv, counting_gym
    from modereg.testing.estimators import check_estimator
    from modereg.testing.policies import TinyPolicy, check_generative_policy
    from modereg.testing.rewards import check_reward
    from modereg.testing.starts import check_starts
    from modereg.testing.tasks import check_task
    from modereg.testing.transforms import (
        CONTEXTS,
        Context,
        check_transform,
        check_transformed_env,
    )

__all__ = [
    "CONTEXTS",
    "Context",
    "CountingEnv",
    "TinyPolicy",
    "check_chunk",
    "check_discoverer",
    "check_estimator",
    "check_generative_policy",
    "check_reward",
    "check_starts",
    "check_task",
    "check_transform",
    "check_transformed_env",
    "counting_gym",
]

_HOMES = {
    "CONTEXTS": "transforms",
    "Context": "transforms",
    "CountingEnv": "environments",
    "TinyPolicy": "policies",
    "check_chunk": "chunks",
    "check_discoverer": "discovery",
    "check_estimator": "estimators",
    "check_generative_policy": "policies",
    "check_reward": "rewards",
    "check_starts": "starts",
    "check_task": "tasks",
    "check_transform": "transforms",
    "check_transformed_env": "transforms",
    "counting_gym": "environments",
}


def __getattr__(name: str) -> Any:
    if name == "strategies":  # not in __all__: it needs hypothesis, which modereg does not
        return import_module("modereg.testing.strategies")
    if name not in _HOMES:
        raise AttributeError(f"module 'modereg.testing' has no attribute {name!r}")
    return getattr(import_module(f"modereg.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
