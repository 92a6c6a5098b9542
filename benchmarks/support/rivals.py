"""Other ways to keep behaviours, or to do without learning, as learners of ``modereg finetune``.

``benchmarks/rivals-0.dist-info`` registers them, as any package registers learners, for whoever
runs with this folder's parent on its path::

    cd benchmarks; python -m modereg finetune ppo_ips --learner.outcomes STAGE1 --base POLICY

They fine-tune plainly, with one code, and are judged as every learner is. What each does is said
where it is implemented.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from modereg.errors import ConfigurationError
from modereg.learners.config import PPOConfig, SACConfig
from modereg.numbers import check_numbers

if TYPE_CHECKING:
    from modereg.learners.base import Learner, Problem

__all__ = ["IPSOptions", "MatchingConfig", "PPOWithIPSConfig", "SACWithIPSConfig", "TicketConfig"]


@dataclass(frozen=True)
class IPSOptions:
    """Of a learner on returns that are divided by how probable their outcome is (IPS).

    Attributes:
        outcomes: run folder of ``discover``, whose q tells outcomes apart. Required.
        floor: the lowest return that there is; returns are counted from it.
        window: the latest episodes of which the shares of the outcomes are taken.
        least: share below which an outcome counts as so probable.
    """

    outcomes: str = ""
    floor: float = 0.0
    window: int = 4096
    least: float = 0.01

    def check(self) -> None:
        """Refuse what is out of range."""
        if not self.outcomes:
            raise ConfigurationError("expected outcomes, the run folder of discover, got none")
        check_numbers(self, count=("window",), share=("least",), positive=("least",))
        if not abs(self.floor) < float("inf"):
            raise ConfigurationError(f"expected a finite floor, got {self.floor}")


@dataclass(frozen=True)
class PPOWithIPSConfig(IPSOptions, PPOConfig):
    """PPO on returns that are divided by how probable their outcome is (IPS)."""

    name: ClassVar[str] = "ppo_ips"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def make(self, problem: Problem) -> Learner:
        """Return PPO on a problem, with another reward."""
        return _module("inverse_probability").with_ips(super().make, problem, self)


@dataclass(frozen=True)
class SACWithIPSConfig(IPSOptions, SACConfig):
    """Soft actor-critic on the noise, on returns that are divided likewise."""

    name: ClassVar[str] = "sac_ips"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def make(self, problem: Problem) -> Learner:
        """Return soft actor-critic on a problem, with another reward."""
        return _module("inverse_probability").with_ips(super().make, problem, self)


@dataclass(frozen=True)
class TicketConfig:
    """One constant noise, the best of many (golden ticket).

    Attributes:
        episodes: m, episodes by which a noise is judged; it divides the environments of a batch.
    """

    name: ClassVar[str] = "ticket"

    episodes: int = 16

    def __post_init__(self) -> None:
        check_numbers(self, count=("episodes",))

    def make(self, problem: Problem) -> Learner:
        """Return the search on a problem."""
        return _module("golden_ticket").GoldenTicket(problem, self)


@dataclass(frozen=True)
class MatchingConfig:
    """Groups of rollouts from one state become as likely as they pay (Uni-TMPO).

    Attributes:
        group: K, rollouts from each state.
        beta: of :class:`~modereg.objectives.GroupMatchingLoss`.
        epochs: passes over a batch.
        minibatch: groups in a gradient step.
        learning_rate: of the steering policy's mean.
        std_learning_rate: of its standard deviations.
        max_grad_norm: norm to which gradients are clipped.
    """

    name: ClassVar[str] = "matching"

    group: int = 8
    beta: float = 1.0
    epochs: int = 5
    minibatch: int = 8
    learning_rate: float = 3e-4
    std_learning_rate: float = 3e-3
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        rates = ("learning_rate", "std_learning_rate")
        check_numbers(
            self,
            count=("epochs", "minibatch"),
            positive=(*rates, "max_grad_norm", "beta"),
        )
        if self.group < 2:
            raise ConfigurationError(f"expected groups of at least 2 rollouts, got {self.group}")

    def make(self, problem: Problem) -> Learner:
        """Return the learner of a problem."""
        return _module("group_matching").GroupMatching(problem, self)


def _module(name: str) -> Any:
    return import_module(f".{name}", __package__)  # with torch, which options must do without
