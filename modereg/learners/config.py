"""Options of the learners, without torch, and the learners that others register.

A learner is chosen by its configuration: a frozen dataclass with a ``name`` and a method
``make(problem) -> Learner``. The entry-point group ``modereg.learners`` names such classes, and so
``modereg finetune`` has their options as a sub-command, with no change elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from modereg.errors import ConfigurationError, MissingDependencyError

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
    "ResidualConfig",
    "SACConfig",
    "check_numbers",
    "learner_configs",
]

GROUP = "modereg.learners"
"""Entry-point group of configurations of learners."""

FEW = 16
"""Dimensions of the noise up to which PPO's smaller learning rate is the default."""


class LearnerConfig(Protocol):
    """What chooses a learner.

    One that leaves the steering policy as it is says so by ``steers = False``: it is given it as
    stage 1 left it, where codes that are not worth steering play the base.
    """

    name: ClassVar[str]
    """What the command line and ``config.yaml`` call it."""

    def make(self, problem: Problem) -> Learner:
        """Return the learner of a problem."""


def check_numbers(config: Any, **rules: tuple[str, ...]) -> None:
    """Check fields of a configuration; None passes everywhere.

    Args:
        config: whose fields.
        **rules: names of fields by what they must be: ``count`` (a number of at least 1),
            ``natural`` (of at least 0), ``positive`` (above 0 and finite), ``nonnegative`` (at
            least 0 and finite), ``share`` (in [0, 1]).

    Raises:
        ConfigurationError: for the first field that is not.
    """
    for rule, names in rules.items():
        test, wanted = _RULES[rule]
        for name in names:
            value = getattr(config, name)
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None and not test(part):
                    raise ConfigurationError(f"expected {name} {wanted}, got {part}")


_RULES = {
    "count": (lambda value: value >= 1, "of at least 1"),
    "natural": (lambda value: value >= 0, "of at least 0"),
    "positive": (lambda value: value > 0 and math.isfinite(value), "above 0 and finite"),
    "nonnegative": (lambda value: value >= 0 and math.isfinite(value), "of at least 0 and finite"),
    "share": (lambda value: 0 <= value <= 1, "in [0, 1]"),
}


@dataclass(frozen=True)
class OnPolicyConfig:
    """What learners share that collect whole batches, and use each once.

    Attributes:
        epochs: passes over a batch.
        minibatch: decisions in a gradient step.
        critic_learning_rate: of the critic.
        clip: epsilon of the clipped objective.
        lmbda: lambda of the generalised advantage, a decision.
        kl_coef: weight of the KL to the base policy, nats.
        max_grad_norm: norm to which gradients are clipped.
        decisions: decisions of each environment in a batch; None takes one longest episode. Batches
            of at least that begin with a reset, shorter ones go on where the last one ended.
    """

    epochs: int = 5
    minibatch: int = 512
    critic_learning_rate: float = 1e-3
    clip: float = 0.2
    lmbda: float = 0.95
    kl_coef: float = 0.003
    max_grad_norm: float = 1.0
    decisions: int | None = None

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("epochs", "minibatch", "decisions"),
            positive=("critic_learning_rate", "max_grad_norm", "clip"),
            nonnegative=("kl_coef",),
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("learning_rate", "std_learning_rate"))

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
            share=("gamma_denoising", "clip_first"),
        )

    def make(self, problem: Problem) -> Learner:
        """Return PPO on the denoiser of a problem's base."""
        learner: Learner = import_module("modereg.learners.dppo").DPPO(problem, self)
        return learner


@dataclass(frozen=True)
class ReplayConfig:
    """What learners with a replay buffer share: every transition is learned from many times.

    Attributes:
        decisions: decisions of each environment in a batch.
        prefill: decisions that are collected by the policy as it is before it changes.
        buffer: decisions that are kept.
        updates: gradient steps for each decision collected.
        minibatch: decisions in a gradient step.
        nstep: decisions whose rewards the critic's target sums before it bootstraps; each
            transition then takes so many times the memory.
        actor_every: gradient steps of the critic for each of the policy.
        critics: networks of the critic's ensemble.
        reduction: of the ensemble: ``min``, or ``mean``, which is less cautious.
        learning_rate: of the policy's mean.
        critic_learning_rate: of the critic.
        tau: share of the way that the target network goes at each gradient step.
        kl_coef: weight of KL(policy || policy at the start), nats, beside a return that is divided
            by its mean size: a small one loses codes that stage 1 gave.
        kl_target: that KL, nats, which a weight that begins at ``kl_coef`` is to bring about; None
            leaves the weight.
        max_grad_norm: norm to which gradients are clipped.
    """

    decisions: int = 4
    prefill: int = 8192
    buffer: int = 200_000
    updates: float = 0.25
    minibatch: int = 256
    nstep: int = 1
    actor_every: int = 2
    critics: int = 2
    reduction: Literal["min", "mean"] = "min"
    learning_rate: float = 3e-4
    critic_learning_rate: float = 1e-3
    tau: float = 0.01
    kl_coef: float = 0.01
    kl_target: float | None = None
    max_grad_norm: float = 10.0

    def __post_init__(self) -> None:
        rates = ("learning_rate", "critic_learning_rate")
        counts = ("decisions", "prefill", "buffer", "minibatch", "nstep", "actor_every", "critics")
        check_numbers(
            self,
            count=counts,
            positive=(*rates, "max_grad_norm", "updates", "tau", "kl_target"),
            nonnegative=("kl_coef",),
            share=("tau",),
        )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigurationError(
                "expected kl_coef above 0, where the weight for kl_target begins, got 0"
            )
        if self.reduction not in ("min", "mean"):
            raise ConfigurationError(f"expected reduction min or mean, got {self.reduction!r}")
        if self.buffer < max(self.prefill, self.minibatch):
            raise ConfigurationError(
                f"expected a buffer for prefill and minibatch, at least "
                f"{max(self.prefill, self.minibatch)} decisions, got {self.buffer}"
            )


@dataclass(frozen=True)
class SACConfig(ReplayConfig):
    """Soft actor-critic on the noise, from a replay buffer.

    Attributes:
        std_learning_rate: of the policy's standard deviations.
    """

    name: ClassVar[str] = "sac"

    std_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("std_learning_rate",))

    def make(self, problem: Problem) -> Learner:
        """Return soft actor-critic on a problem."""
        learner: Learner = import_module("modereg.learners.sac").SAC(problem, self)
        return learner


@dataclass(frozen=True)
class DemonstratedConfig(ReplayConfig):
    """What learners share whose critic values what was played: they learn from demonstrations too.

    Attributes:
        demonstrations: file of recorded episodes, as ``save_recording`` writes it, that are learned
            from beside what is collected; None learns from that alone.
        demonstrated: share of each minibatch that is drawn from them.
    """

    demonstrations: Path | None = None
    demonstrated: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.demonstrations is None:
            if self.demonstrated != 0.5:
                raise ConfigurationError(
                    "expected demonstrated only with demonstrations, got no file of them"
                )
        elif not 1 <= self.shown < self.minibatch:
            raise ConfigurationError(
                "expected demonstrated such that a minibatch has some of both, got "
                f"{self.demonstrated} of {self.minibatch}"
            )

    @property
    def shown(self) -> int:
        """Decisions of demonstrations in a minibatch, if there are any."""
        return round(self.demonstrated * self.minibatch)


@dataclass(frozen=True)
class DSRLConfig(SACConfig, DemonstratedConfig):
    """DSRL with noise aliasing: a critic of the chunks that were played leads the noise.

    Each gradient step decodes a minibatch of chunks to bootstrap from, and ``draws`` of them to
    distil: worth it where environment steps cost more than the base policy.

    Attributes:
        prior_share: share of the noises by which the critic of noises is distilled that are drawn
            from N(0, I); the others are drawn from the policy.
        draws: such noises at each state of a minibatch.
    """

    name: ClassVar[str] = "dsrl"

    prior_share: float = 0.5
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, count=("draws",), share=("prior_share",))

    def make(self, problem: Problem) -> Learner:
        """Return DSRL on a problem."""
        learner: Learner = import_module("modereg.learners.dsrl").DSRL(problem, self)
        return learner


@dataclass(frozen=True)
class ResidualConfig(DemonstratedConfig):
    """A residual on the base's chunks, from a replay buffer; the steering policy stays as it is.

    Attributes:
        bound: how far a chunk is moved at most, in standard deviations of the base's own chunks;
            None takes that of the residual that ``start`` brings, and 0.5 for a new one.
        directions: directions of the base's chunks that a new residual moves along; None takes
            those of the start's, and 8 for a new one.
        spread: root mean square length of the noise by which it explores, in bounds.
        explore: decisions after the prefill over which the share of those that are moved by what
            is learned rises to 1.
        kl_coef: weight of KL(policy || policy at the start), nats, of the noise by which it
            explores: the bound holds the chunk, so that it need only keep the mean from growing.
    """

    name: ClassVar[str] = "residual"
    steers: ClassVar[bool] = False

    bound: float | None = None
    directions: int | None = None
    spread: float = 0.5
    explore: int = 10_000
    kl_coef: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, count=("directions", "explore"), positive=("bound", "spread"))

    def make(self, problem: Problem) -> Learner:
        """Return the learner of a residual on a problem."""
        learner: Learner = import_module("modereg.learners.residual").Residual(problem, self)
        return learner


@dataclass(frozen=True)
class QF3Config(ReplayConfig):
    """A critic's gradient on the denoiser's weights, from a replay buffer (QF3).

    The steering policy stays as it is, and each step of the denoiser is trained by one call of it.

    Attributes:
        steps: how many of the last denoising steps are trained, the others are the base's; None
            takes those of ``start``, and all of a base that was not trained.
        lora_rank: of low-rank adapters that are trained in the place of the weights; None takes
            that of ``start``, and trains all weights of a base that was not trained.
        clip: error of the velocity up to which the critic leads it, in the denoiser's units.
        cfm_coef: weight of flow matching on what was played.
        noise: with which it is matched: ``played``, from which it was decoded, so that codes go on
            leading to what they led to, or ``independent``.
        kl_coef: weight of half the squared distance of the velocity to the base's.
        kl_target: half that distance that a weight which begins at ``kl_coef`` is to bring about;
            None leaves the weight.
        learning_rate: of the denoiser.
    """

    name: ClassVar[str] = "qf3"
    steers: ClassVar[bool] = False

    steps: int | None = None
    lora_rank: int | None = None
    clip: float = 0.3
    cfm_coef: float = 0.05
    noise: Literal["played", "independent"] = "played"

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("steps", "lora_rank")
        check_numbers(self, count=counts, positive=("clip",), nonnegative=("cfm_coef",))
        if self.noise not in ("played", "independent"):
            raise ConfigurationError(f"expected noise played or independent, got {self.noise!r}")

    def make(self, problem: Problem) -> Learner:
        """Return the learner of the denoiser of a problem's base."""
        learner: Learner = import_module("modereg.learners.qf3").QF3(problem, self)
        return learner


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
