"""Options that several recipes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers

__all__ = ["LogConfig", "NoiseConfig", "ProgressConfig", "TaskConfig"]


@dataclass(frozen=True)
class TaskConfig:
    """Which environment, how many of it, and what differs from the task's own layout.

    Attributes:
        name: ``task:avoid``, ``task:gaussian_mixture``, ``task:visual_avoid``, ``gymnasium:ID``,
            ``maniskill:ID``, ``mujoco:point_maze``, ``mujoco:kitchen``, or ``module:factory`` of
            your own.
        options: options of the task, such as ``pay_spread 0.3``.
        num_envs: environments in a batch; None takes what the task suggests.
        workers: processes that step the environments, for simulators that take their time; 1 steps
            them in the run's own. The seeds of a run give other episodes with another number.
        device: where the environments are; None takes the policy's device, or the CPU with workers.
        execute: actions of a chunk that are played, open loop; None takes the task's own, as below.
        offset: first played action of a chunk.
        gamma: discount of one environment step.
        feature_keys: entries whose history the discoverer sees, nested ones with dots
            (``agent.pos``).
        feature_dims: which dimensions of them, side by side; None takes all of ``feature_keys``,
            or the task's own.
        feature_noise: standard deviation of the noise on the discoverer's input, in feature units.
        steering_keys: entries that the steering policy and the critic read, written alike. What
            differs from episode to episode and does not matter is better left out: noises are
            learned by heart with it.
    """

    name: str = "task:avoid"
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    num_envs: int | None = None
    workers: int = 1
    device: str | None = None
    execute: int | None = None
    offset: int | None = None
    gamma: float | None = None
    feature_keys: tuple[str, ...] | None = None
    feature_dims: tuple[int, ...] | None = None
    feature_noise: float | None = None
    steering_keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("num_envs", "workers", "execute"),
            natural=("offset", "feature_dims"),
            share=("gamma",),
            nonnegative=("feature_noise",),
        )
        for name in ("feature_keys", "feature_dims", "steering_keys"):
            if getattr(self, name) == ():
                raise ConfigurationError(f"expected {name} of at least one entry, got none")


@dataclass(frozen=True)
class NoiseConfig:
    """In which subspace of the noise is steered; the rest of it stays N(0, I).

    Few of many dimensions decide what is played, and reinforcement learning is the faster the fewer
    it has to search.

    Attributes:
        basis: ``all`` of the noise; ``response``, the directions that the played actions respond to
            most, measured at 64 states of the base; ``cosine``, the lowest waves along the chunk;
            or ``repeated``, the same noise at each action of a chunk.
        rank: dimensions that are steered; None lets the spectrum choose at most 8 for ``response``,
            and takes 3 waves of each dimension for ``cosine``.
    """

    basis: Literal["all", "response", "cosine", "repeated"] = "all"
    rank: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, count=("rank",))
        if self.rank is not None and self.basis not in ("response", "cosine"):
            raise ConfigurationError(
                f"expected noise.rank with noise.basis response or cosine, got {self.basis}, which "
                "has one of its own; leave noise.rank out"
            )


@dataclass(frozen=True)
class ProgressConfig:
    """What a command that logs no curves says while it works.

    Attributes:
        progress: how far the work is, on stderr.
    """

    progress: bool = True


@dataclass(frozen=True)
class LogConfig:
    """Where a run writes its curves besides its own files.

    Attributes:
        tensorboard: event files for TensorBoard, where it is installed.
        wandb: a project of Weights & Biases, or None.
        progress: how far the work is, on stderr.
    """

    tensorboard: bool = True
    wandb: str | None = None
    progress: bool = True
