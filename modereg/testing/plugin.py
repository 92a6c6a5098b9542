"""The plug-in for pytest: the checks, and tiny things to run them on, as fixtures.

It comes with modereg, by an entry point in the group ``pytest11``: a test asks for a fixture by its
name and imports nothing. Every run of pytest on a machine with modereg loads this module, so it
imports pytest alone, and torch only where a fixture is used. ``-p no:modereg`` leaves it out.

All names begin with ``modereg_``, since pytest has one namespace for the fixtures of all plug-ins
and of the project: a bare ``counting_env`` of a project would silently take the place of ours, ours
would hide that of another plug-in, and ``check_estimator`` is a function of scikit-learn too.

The fixtures ``modereg_check_*`` are the functions of :mod:`modereg.testing` themselves; the others
are small objects, made anew for each test, that fit together. For other shapes than theirs, import
their classes from :mod:`modereg.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

    from modereg.testing import CountingEnv, TinyPolicy

__all__ = [
    "modereg_check_discoverer",
    "modereg_check_estimator",
    "modereg_check_generative_policy",
    "modereg_check_starts",
    "modereg_check_task",
    "modereg_check_transform",
    "modereg_counting_env",
    "modereg_steered_env",
    "modereg_tiny_policy",
]

Check = Callable[..., None]


def _check(name: str, said: str) -> Any:
    """Make a fixture of a function of :mod:`modereg.testing`, imported when a test asks for it."""

    def check() -> Check:
        return getattr(import_module("modereg.testing"), name)

    check.__doc__ = said
    return pytest.fixture(check, scope="session", name=f"modereg_{name}")


modereg_check_discoverer = _check(
    "check_discoverer", "The battery for a ModeDiscoverer: check(make_discoverer, features)."
)
modereg_check_estimator = _check(
    "check_estimator", "The battery for a RewardEstimator: check(make_estimator, features)."
)
modereg_check_generative_policy = _check(
    "check_generative_policy", "The contract of a GenerativePolicy: check(policy, observations)."
)
modereg_check_starts = _check(
    "check_starts", "Episodes that remember nothing of the one before: check(make_transform)."
)
modereg_check_task = _check(
    "check_task", "The battery for a Task, or for a factory of environments: check(task)."
)
modereg_check_transform = _check(
    "check_transform", "The battery for a transform, in every context: check(make_transform)."
)


@pytest.fixture
def modereg_counting_env() -> Iterator[CountingEnv]:
    """A batch [3] of environments of 3, 7 and 4 steps; observations [3, 3], actions [3, 2]."""
    from modereg.testing import CountingEnv

    env = CountingEnv((3, 7, 4), start_noise=1.0)
    yield env
    env.close(raise_if_closed=False)


@pytest.fixture
def modereg_tiny_policy() -> TinyPolicy:
    """A frozen policy for modereg_counting_env: chunks [B, 4, 2] of noise of the same shape."""
    from modereg.testing import TinyPolicy

    return TinyPolicy(3, (4, 2))


@pytest.fixture
def modereg_steered_env(
    modereg_counting_env: CountingEnv, modereg_tiny_policy: TinyPolicy
) -> EnvBase:
    """Those two put together by steer_env: noise as the action, histories, codes in [0, 4)."""
    from modereg.layout import Layout
    from modereg.wrapping import steer_env

    layout = Layout(max_steps=8, execute=4)
    return steer_env(modereg_counting_env, modereg_tiny_policy, 4, layout)
