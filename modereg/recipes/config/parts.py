"""Options that several recipes share."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LogConfig", "PPOConfig", "ProgressConfig", "TaskConfig"]


@dataclass(frozen=True)
class TaskConfig:
    """Which environment, and how many of it.

    Attributes:
        name: ``task:avoid``, ``task:gaussian_mixture``, ``task:visual_avoid``, ``gymnasium:ID``,
            ``maniskill:ID``, ``mujoco:point_maze``, or ``module:factory`` of your own.
        options: options of the task, such as ``pay_spread 0.3``.
        num_envs: environments in a batch; None takes what the task suggests.
        feature_keys: entries whose history the discoverer sees, nested ones with dots
            (``agent.pos``); None takes the task's own.
        feature_dims: which dimensions of them, side by side; None takes all of ``feature_keys``,
            or the task's own.
        steering_keys: entries that the steering policy and the critic read, written alike; None
            takes the task's own. What differs from episode to episode and does not matter is
            better left out: noises are learned by heart with it.
    """

    name: str = "task:avoid"
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    num_envs: int | None = None
    feature_keys: tuple[str, ...] | None = None
    feature_dims: tuple[int, ...] | None = None
    steering_keys: tuple[str, ...] | None = None


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
        tensorboard: event files for TensorBoard.
        wandb: a project of Weights & Biases, or None.
        progress: how far the work is, on stderr.
    """

    tensorboard: bool = True
    wandb: str | None = None
    progress: bool = True


@dataclass(frozen=True)
class PPOConfig:
    """PPO on the steering policy.

    Attributes:
        epochs: passes over a batch.
        minibatch: decisions in a gradient step.
        learning_rate: of the steering policy's mean.
        std_learning_rate: of its standard deviations.
        critic_learning_rate: of the critic.
        clip: epsilon of the clipped objective.
        gamma: discount an environment step.
        lmbda: lambda of the generalised advantage, a decision.
        kl_coef: weight of KL(psi || N(0, I)), nats.
        max_grad_norm: norm to which gradients are clipped.
        decisions: decisions of each environment in an iteration; None takes one longest episode.
    """

    epochs: int = 5
    minibatch: int = 512
    learning_rate: float = 3e-4
    std_learning_rate: float = 3e-3
    critic_learning_rate: float = 1e-3
    clip: float = 0.2
    gamma: float = 0.999
    lmbda: float = 0.95
    kl_coef: float = 0.003
    max_grad_norm: float = 1.0
    decisions: int | None = None
