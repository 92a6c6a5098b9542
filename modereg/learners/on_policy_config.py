"""Options of the learners that collect whole batches, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from modereg.numbers import check_numbers

if TYPE_CHECKING:
    from modereg.learners.base import Learner, Problem

__all__ = ["DPPOConfig", "OnPolicyConfig", "PPOConfig", "ResiPConfig"]

FEW = 16
"""Dimensions of the noise up to which PPO's smaller learning rate is the default."""


@dataclass(frozen=True)
class OnPolicyConfig:
    """What learners share that collect whole batches, and use each once.

    Attributes:
        epochs: passes over a batch.
        minibatch: decisions in a gradient step.
        critic_learning_rate: of the critic.
        clip: epsilon of the clipped objective.
        lmbda: lambda of the generalised advantage, a decision.
        max_grad_norm: norm to which gradients are clipped.
        decisions: decisions of each environment in a batch; None takes one longest episode. Batches
            of at least that begin with a reset, shorter ones go on where the last one ended.
    """

    epochs: int = 5
    minibatch: int = 512
    critic_learning_rate: float = 1e-3
    clip: float = 0.2
    lmbda: float = 0.95
    max_grad_norm: float = 1.0
    decisions: int | None = None

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("epochs", "minibatch", "decisions"),
            positive=("critic_learning_rate", "max_grad_norm", "clip"),
            share=("lmbda", "clip"),
        )


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """PPO on the steering policy: whole batches, used once.

    Attributes:
        learning_rate: of the steering policy's mean; None takes 3e-4 where at most 16 dimensions of
            the noise are steered, and 1e-3 where more are.
        std_learning_rate: of its standard deviations.
        kl_coef: weight of KL(psi || N(0, I)), nats.
    """

    name: ClassVar[str] = "ppo"

    learning_rate: float | None = None
    std_learning_rate: float = 3e-3
    kl_coef: float = 0.003

    def __post_init__(self) -> None:
        super().__post_init__()
        rates = ("learning_rate", "std_learning_rate")
        check_numbers(self, positive=rates, nonnegative=("kl_coef",))

    def for_noise(self, dimensions: int) -> PPOConfig:
        """Return the options with nothing left open.

        Args:
            dimensions: of the noise that are steered: ``steering.noise_shape.numel()``.
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=3e-4 if dimensions <= FEW else 1e-3)

    def make(self, problem: Problem) -> Learner:
        """Return PPO on a problem; its module needs torch, which options must not."""
        learner: Learner = import_module("modereg.learners.ppo").PPO(problem, self)
        return learner


@dataclass(frozen=True)
class DPPOConfig(OnPolicyConfig):
    """PPO on the weights of the denoiser, over its steps; the steering policy stays as it is.

    Attributes:
        clip: epsilon of the last denoising step.
        clip_first: epsilon of the noisiest one, from which it grows to ``clip``; None takes
            ``clip`` for all.
        kl_coef: weight of the KL of the chain to the base's, nats.
        steps: how many of the last denoising steps are trained, the others are the base's; None
            takes those of ``start``, and all of a base that was not trained.
        lora_rank: of low-rank adapters that are trained in the place of the weights; None takes
            that of ``start``, and trains all weights of a base that was not trained.
        embed_codes: whether the denoiser is told the code, too, which shifts the biases of its
            layers; else it is where ``start`` did so, and a code chooses the noise alone.
        noise: eta in (0, 1] of a diffusion, sigma of a flow, while it collects.
        floor: smallest standard deviation of a step at a noise of 1, in the denoiser's units.
        gamma_denoising: discount of a denoising step.
        learning_rate: of the denoiser.
    """

    name: ClassVar[str] = "dppo"
    steers: ClassVar[bool] = False

    clip_first: float | None = None
    kl_coef: float = 0.0
    steps: int | None = None
    lora_rank: int | None = None
    embed_codes: bool = False
    noise: float = 0.3
    floor: float = 0.3
    gamma_denoising: float = 0.99
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(
            self,
            count=("steps", "lora_rank"),
            positive=("learning_rate", "noise", "floor", "clip_first"),
            nonnegative=("kl_coef",),
            share=("gamma_denoising", "clip_first"),
        )

    def make(self, problem: Problem) -> Learner:
        """Return PPO on the denoiser of a problem's base."""
        learner: Learner = import_module("modereg.learners.dppo").DPPO(problem, self)
        return learner


@dataclass(frozen=True)
class ResiPConfig(OnPolicyConfig):
    """PPO on a residual that moves each action when it is played; the steering policy stays.

    Attributes:
        minibatch: environment steps in a gradient step.
        lmbda: lambda of the generalised advantage, an environment step.
        bound: how far an action is moved at most, in standard deviations of the base's own actions;
            None takes that of the step residual that ``start`` brings, and 0.5 for a new one.
        spread: root mean square length of the noise by which it explores, in bounds.
        learning_rate: of the residual.
    """

    name: ClassVar[str] = "resip"
    steers: ClassVar[bool] = False

    epochs: int = 10
    minibatch: int = 4096
    lmbda: float = 0.99
    bound: float | None = None
    spread: float = 0.5
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("learning_rate", "bound", "spread"))

    def make(self, problem: Problem) -> Learner:
        """Return PPO on the single steps of a problem."""
        learner: Learner = import_module("modereg.learners.resip").ResiP(problem, self)
        return learner
