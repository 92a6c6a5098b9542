"""Other ways to keep behaviours, or to do without learning, as learners of ``modereg finetune``.

``benchmarks/rivals.dist-info`` registers them, as any package registers learners, for whoever runs
with this folder's parent on its path::

    cd benchmarks; python -m modereg finetune ppo_ips --learner.outcomes STAGE1 --base POLICY

They fine-tune plainly, with one code, and are judged as every learner is. What each does is said
where it is implemented.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from modereg.errors import ConfigurationError
from modereg.learners.config import PPOConfig, SACConfig, check_numbers

if TYPE_CHECKING:
    from modereg.learners.base import Learner, Problem

__all__ = ["MatchingConfig", "PPOWithIPSConfig", "SACWithIPSConfig", "TicketConfig"]


@dataclass(frozen=True)
class PPOWithIPSConfig(PPOConfig):
    """PPO on returns that are divided by how probable their outcome is (IPS).

    Attributes:
        outcomes: run folder of ``discover``, whose q tells outcomes apart. Required.
        floor: the lowest return that there is; returns are counted from it.
        window: the latest episodes of which the shares of the outcomes are taken.
        least: share below which an outcome counts as so probable.
    """

    name: ClassVar[str] = "ppo_ips"

    outcomes: str = ""
    floor: float = 0.0
    window: int = 4096
    least: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ips(self)

    def make(self, problem: Problem) -> Learner:
        """Return PPO on a problem, with another reward."""
        return _with_ips(super().make, problem, self)


@dataclass(frozen=True)
class SACWithIPSConfig(SACConfig):
    """Soft actor-critic on the noise, likewise; the options are those of PPO with IPS.

    Attributes:
        outcomes: see there.
        floor: see there.
        window: see there.
        least: see there.
    """

    name: ClassVar[str] = "sac_ips"

    outcomes: str = ""
    floor: float = 0.0
    window: int = 4096
    least: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ips(self)

    def make(self, problem: Problem) -> Learner:
        """Return soft actor-critic on a problem, with another reward."""
        return _with_ips(super().make, problem, self)


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


def _check_ips(config: PPOWithIPSConfig | SACWithIPSConfig) -> None:
    if not config.outcomes:
        raise ConfigurationError("expected outcomes, the run folder of discover, got none")
    check_numbers(config, count=("window",), share=("least",), positive=("least",))
    if not abs(config.floor) < float("inf"):
        raise ConfigurationError(f"expected a finite floor, got {config.floor}")


def _with_ips(make: Any, problem: Problem, config: Any) -> Learner:
    return _module("inverse_probability").with_ips(make, problem, config)


def _module(name: str) -> Any:
    return import_module(f".{name}", __package__)  # with torch, which options must do without
