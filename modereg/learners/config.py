"""Options of the learners, without torch, and the learners that others register.

A learner is chosen by its configuration: a frozen dataclass with a ``name`` and a method
``make(problem) -> Learner``. The entry-point group ``modereg.learners`` names such classes, and so
``modereg finetune`` has their options as a sub-command, with no change elsewhere.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar, Protocol

from modereg.errors import ConfigurationError, MissingDependencyError
from modereg.learners.on_policy_config import DPPOConfig, OnPolicyConfig, PPOConfig, ResiPConfig
from modereg.learners.replay_config import (
    DemonstratedConfig,
    DSRLConfig,
    QF3Config,
    ReplayConfig,
    ResFiTConfig,
    ResidualConfig,
    SACConfig,
)

if TYPE_CHECKING:
    from modereg.learners.base import Learner, Problem

__all__ = [
    "DPPOConfig",
    "DSRLConfig",
    "DemonstratedConfig",
    "LearnerConfig",
    "OnPolicyConfig",
    "PPOConfig",
    "QF3Config",
    "ReplayConfig",
    "ResFiTConfig",
    "ResiPConfig",
    "ResidualConfig",
    "SACConfig",
    "learner_configs",
]

GROUP = "modereg.learners"
"""Entry-point group of configurations of learners."""


class LearnerConfig(Protocol):
    """What chooses a learner.

    One that leaves the steering policy as it is says so by ``steers = False``: it is given it as
    stage 1 left it, where codes that are not worth steering play the base.
    """

    name: ClassVar[str]
    """What the command line and ``config.yaml`` call it."""

    def make(self, problem: Problem) -> Learner:
        """Return the learner of a problem."""


def learner_configs() -> dict[str, type[LearnerConfig]]:
    """Return the configurations of modereg's learners and of those that others registered, by name.

    Raises:
        MissingDependencyError: if one cannot be imported.
        ConfigurationError: if one is no dataclass with ``make``.
    """
    own: tuple[type[LearnerConfig], ...] = (
        PPOConfig,
        SACConfig,
        DSRLConfig,
        ResidualConfig,
        ResiPConfig,
        ResFiTConfig,
        DPPOConfig,
        QF3Config,
    )
    found = {kind.name: kind for kind in own}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            kind = point.load()
        except ImportError as error:
            raise MissingDependencyError(
                f"The learner {point.name!r} ({point.value}) cannot be imported: {error}; install "
                "what it needs, or remove it."
            ) from error
        if not is_dataclass(kind) or not callable(getattr(kind, "make", None)):
            raise ConfigurationError(
                f"expected the entry point {point.name!r} of {GROUP} to name a dataclass with "
                f"make(problem), got {point.value}"
            )
        found[point.name] = kind  # type: ignore[assignment]
    return found
