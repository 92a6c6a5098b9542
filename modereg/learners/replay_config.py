"""Options of the learners with a replay buffer, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers

if TYPE_CHECKING:
    from modereg.learners.base import Learner, Problem

__all__ = [
    "DSRLConfig",
    "DemonstratedConfig",
    "QF3Config",
    "ReplayConfig",
    "ResFiTConfig",
    "ResidualConfig",
    "SACConfig",
]


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
        embed_codes: whether the denoiser is told the code, too, which shifts the biases of its
            layers; else it is where ``start`` did so, and a code chooses the noise alone.
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
    embed_codes: bool = False
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


@dataclass(frozen=True)
class ResFiTConfig(DemonstratedConfig):
    """TD3 on a residual that moves each action when it is played; the steering policy stays.

    Attributes:
        decisions: decisions of each environment in a batch; prefill, buffer, updates and minibatch
            count environment steps, and ``nstep`` sums the rewards of so many.
        reduction: of the ensemble, where the policy climbs it; the target takes the least of
            ``subset`` members.
        subset: members of the ensemble, drawn anew each time, whose least is the target.
        bound: how far an action is moved at most, in standard deviations of the base's own actions;
            None takes that of the step residual that ``start`` brings, and 0.5 for a new one.
        spread: root mean square length of the noise by which it explores, in bounds.
        smoothing: of the noise in the target, in standard deviations of that noise; it is clipped
            at 2.5 of its own.
        explore: steps after the prefill over which the share of those that are moved by what is
            learned rises to 1.
        kl_coef: weight of KL(policy || policy at the start), nats, of the noise by which it
            explores.
    """

    name: ClassVar[str] = "resfit"
    steers: ClassVar[bool] = False

    decisions: int = 2
    prefill: int = 32_768
    updates: float = 0.05
    nstep: int = 3
    reduction: Literal["min", "mean"] = "mean"
    subset: int = 2
    bound: float | None = None
    spread: float = 0.5
    smoothing: float = 1.0
    explore: int = 40_000
    kl_coef: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(
            self,
            count=("explore", "subset"),
            positive=("bound", "spread"),
            nonnegative=("smoothing",),
        )
        if self.subset > self.critics:
            raise ConfigurationError(
                f"expected a subset of the {self.critics} critics, got {self.subset}"
            )

    def make(self, problem: Problem) -> Learner:
        """Return TD3 on the single steps of a problem."""
        learner: Learner = import_module("modereg.learners.resfit").ResFiT(problem, self)
        return learner
