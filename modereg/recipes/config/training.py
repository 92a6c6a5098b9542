"""Options of the recipes that train: pretrain, discover and finetune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from modereg.balances.config import BalanceConfig, ConstantConfig
from modereg.errors import ConfigurationError
from modereg.learners.config import PPOConfig
from modereg.numbers import check_numbers
from modereg.recipes.config.parts import LogConfig, NoiseConfig, TaskConfig

__all__ = [
    "METHODS",
    "ClusterConfig",
    "DiscoverConfig",
    "FinetuneConfig",
    "GuidedConfig",
    "PretrainConfig",
    "VariationalConfig",
]

Timing = Literal["dense", "difference", "final"]


@dataclass(frozen=True)
class PretrainConfig:
    """Behaviour cloning of a task's scripted expert into a base policy.

    Attributes:
        out: folder of the policy, in its library's format.
        task: the task; it must have an expert.
        library: whose policy: ``diffusers``, ``transformers`` (a small PI0 for tasks with images
            and instructions, with ``--method flow``), or another loader of policies that can make
            a fresh one.
        method: diffusion or flow matching.
        episodes: demonstrations.
        shares: relative frequency of each mode in them; None shows all equally often.
        hidden: widths of the denoiser.
        steps: gradient steps.
        batch: chunks in a gradient step.
        learning_rate: of Adam; falls along a cosine.
        ema: decay of the averaged weights that are saved.
        inference_steps: denoising steps of the saved policy.
        device: where the policy is trained.
        seed: of demonstrations and training.
        record: keep the demonstrations as they were played, in ``demonstrations.safetensors``, for
            learners that learn from them too (``--learner.demonstrations``).
        log: loggers.
        resume: go on with an interrupted run in the same folder.
    """

    artefact: ClassVar[str] = "policy"
    budget: ClassVar[tuple[str, ...]] = ()

    out: Path = Path("runs/base")
    task: TaskConfig = TaskConfig()
    library: str = "diffusers"
    method: Literal["diffusion", "flow"] = "diffusion"
    episodes: int = 600
    shares: tuple[float, ...] | None = None
    hidden: tuple[int, ...] = (192, 192, 192)
    steps: int = 6000
    batch: int = 512
    learning_rate: float = 1e-3
    ema: float = 0.998
    inference_steps: int = 8
    device: str = "cpu"
    seed: int = 0
    record: bool = False
    log: LogConfig = LogConfig()
    resume: bool = False

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("episodes", "hidden", "steps", "batch", "inference_steps"),
            positive=("learning_rate",),
            nonnegative=("shares",),
            natural=("seed",),
            share=("ema",),
        )


@dataclass(frozen=True)
class GuidedConfig:
    """Learn which outcomes chunks lead to, and push the noise through the decoder to a code's own.

    Nothing needs tuning: fits stop on what is held out, and rounds when hits no longer rise.

    Attributes:
        along_path: whether clusters and q read an episode's history along its path, so that speed
            does not tell episodes apart; not so where when something is done is the behaviour.
        episodes: episodes of the base; 2048 unless it is set, and as many as half an hour is enough
            for in a slow environment, 512 at least. Twice or four times as many where they show so
            many behaviours that each would have fewer than 80, or the rarest fewer than 20.
        refinements: at most so many rounds of rolling out and fitting again.
        refine_episodes: episodes of a round, and of the choice of codes after them; 256, 512 for
            the choice, and 40 of each code at least, unless it is set.
        outcome_steps: gradient steps of the outcome model, in later rounds half of them.
        guide_steps: gradient steps of the steering policy, in later rounds half of them.
        student_steps: gradient steps of the decoder's student, in later rounds a quarter of them.
        std: standard deviation of the noise in the first and the last round.
        target: stop once this share of the codes reaches itself with success in at least 0.8 of its
            episodes.
        residual: how far codes that do not command after that move the chunk itself, in standard
            deviations of the base's own chunks, in at most as many further rounds: for behaviours
            that no noise reaches. Not at all by default; 0.5 is a good length.
    """

    name: ClassVar[str] = "guided"

    along_path: bool = True
    episodes: int | None = None
    refinements: int = 6
    refine_episodes: int | None = None
    outcome_steps: int = 600
    guide_steps: int = 600
    student_steps: int = 1500
    std: tuple[float, float] = (0.7, 0.3)
    target: float = 0.95
    residual: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("episodes", "refine_episodes", "outcome_steps", "guide_steps", "student_steps"),
            natural=("refinements",),
            positive=("std",),
            share=("target",),
        )
        if not 0 <= self.residual < float("inf"):
            raise ConfigurationError(
                f"expected a length of the residual of at least 0, got {self.residual}"
            )


@dataclass(frozen=True)
class ClusterConfig:
    """Cluster episodes of the base and imitate their noise, refining by roll-outs.

    Attributes:
        along_path: whether clusters and q read an episode's history along its path, so that speed
            does not tell episodes apart; not so where when something is done is the behaviour.
        episodes: episodes of the base.
        imitation_steps: gradient steps of the first fit.
        validation: share of the noises that is held out of every fit and stops it, such as 0.1;
            worth it with few episodes, or where observations tell episodes apart.
        refinements: at most so many rounds of rolling out and fitting again.
        refine_episodes: episodes of a refinement.
        refine_steps: gradient steps of a refinement.
        std: standard deviation of the noise in the first and the last refinement.
        target: stop once this share of the codes reaches itself with success in at least 0.8 of its
            episodes.
    """

    name: ClassVar[str] = "cluster"

    along_path: bool = True
    episodes: int = 16384
    imitation_steps: int = 1500
    validation: float = 0.0
    refinements: int = 5
    refine_episodes: int = 4096
    refine_steps: int = 400
    std: tuple[float, float] = (0.7, 0.3)
    target: float = 0.95

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("episodes", "refine_episodes"),
            natural=("imitation_steps", "refinements", "refine_steps"),
            positive=("std",),
            share=("validation", "target"),
        )


@dataclass(frozen=True)
class VariationalConfig:
    """BMD's own procedure (arXiv 2605.11387): reinforcement learning on the intrinsic reward alone.

    Attributes:
        estimator: what rewards and learns: ``categorical`` as in the paper, ``contrastive``
            (InfoNCE, as CIC), ``metra`` or ``lsd`` (Wasserstein dependency), one that a plug-in
            registers, or ``module:Class``.
        iterations: batches of PPO.
        timing: when the intrinsic reward is paid; None chooses ``final`` where the time limit
            terminates and ``difference`` elsewhere.
        eval_every: batches between evaluations.
        eval_episodes: episodes of each.
        ppo: options of PPO.
    """

    name: ClassVar[str] = "variational"

    estimator: str = "categorical"
    iterations: int = 80
    timing: Timing | None = None
    eval_every: int = 10
    eval_episodes: int = 1024
    ppo: PPOConfig = PPOConfig(kl_coef=0.02)

    def __post_init__(self) -> None:
        check_numbers(self, count=("eval_every", "eval_episodes"), natural=("iterations",))


METHODS: dict[str, type[Any]] = {
    kind.name: kind for kind in (GuidedConfig, ClusterConfig, VariationalConfig)
}
"""The methods of stage 1 by name."""


@dataclass(frozen=True)
class DiscoverConfig:
    """Stage 1: find the modes of a frozen base policy, and a steering policy that commands them.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        out: run folder.
        task: the task.
        method: how, with its own options.
        noise: the subspace of the noise that is steered.
        num_codes: K; None lets ``guided`` and ``cluster`` choose it and ``variational`` take 16.
        hidden: widths of the steering policy and the discoverer.
        final_episodes: episodes that judge the result; 4096 unless it is set, and no more than
            twice those of the base.
        device: where policies, discoverer and learner are.
        seed: of everything.
        log: loggers.
        page: whether the command draws the run's page at the end.
        resume: go on with an interrupted run in the same folder, or, with another
            ``method.refinements`` or ``method.iterations``, make it longer or end it.
    """

    artefact: ClassVar[str] = "adapter"
    budget: ClassVar[tuple[str, ...]] = ("method.refinements", "method.iterations")

    base: str = "runs/base"
    out: Path = Path("runs/discover")
    task: TaskConfig = TaskConfig()
    method: GuidedConfig | ClusterConfig | VariationalConfig = GuidedConfig()
    noise: NoiseConfig = NoiseConfig()
    num_codes: int | None = None
    hidden: tuple[int, ...] = (128, 128)
    final_episodes: int | None = None
    device: str = "cpu"
    seed: int = 0
    log: LogConfig = LogConfig()
    page: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, count=("num_codes", "hidden", "final_episodes"), natural=("seed",))


@dataclass(frozen=True)
class FinetuneConfig:
    """Stage 2: a learner on the task's reward, with the intrinsic reward beside it.

    Without ``start`` and ``num_codes`` this is plain fine-tuning: one code, nothing intrinsic,
    everything else alike.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        start: run folder of ``discover``; None fine-tunes plainly.
        out: run folder.
        task: the task.
        learner: what learns, with its own options.
        noise: the subspace of the noise that is steered; with ``start`` it is that of the start.
        num_codes: without ``start``: codes of a discoverer that begins with nothing.
        balance: how much the intrinsic reward weighs, with its own options. Only with codes.
        regulariser: with ``start``: ``discovered`` begins at what stage 1 gave, ``scratch`` keeps
            its codes and discoverer and begins steering at the base, an ablation.
        discoverer: with ``start``: ``frozen``, or ``online``: q keeps learning (always so after
            ``variational``).
        timing: when the intrinsic reward is paid; None chooses ``final`` where the time limit
            terminates and ``difference`` elsewhere. Only with codes.
        accept_uncommanded: whether to go on from a stage 1 of which no code commands.
        env_steps: environment steps in all, those of stage 1 included.
        std: standard deviation of the noise at the start; None leaves it.
        eval_every: batches between evaluations.
        eval_episodes: episodes of an evaluation during the run.
        final_episodes: episodes of the last one.
        hidden: widths of the critic, and of the steering policy without ``start``.
        device: where policies, discoverer and learner are.
        seed: of everything.
        log: loggers.
        page: whether the command draws the run's page at the end.
        resume: go on with an interrupted run in the same folder, or, with other ``env_steps``, make
            it longer or end it.
    """

    artefact: ClassVar[str] = "adapter"
    budget: ClassVar[tuple[str, ...]] = ("env_steps",)

    base: str = "runs/base"
    start: str | None = None
    out: Path = Path("runs/finetune")
    task: TaskConfig = TaskConfig()
    learner: Any = PPOConfig()
    noise: NoiseConfig = NoiseConfig()
    num_codes: int | None = None
    balance: BalanceConfig = ConstantConfig()
    regulariser: Literal["discovered", "scratch"] = "discovered"
    discoverer: Literal["frozen", "online"] = "frozen"
    timing: Timing | None = None
    accept_uncommanded: bool = False
    env_steps: int = 4_000_000
    std: float | None = None
    eval_every: int = 10
    eval_episodes: int = 1024
    final_episodes: int = 4096
    hidden: tuple[int, ...] = (128, 128)
    device: str = "cpu"
    seed: int = 0
    log: LogConfig = LogConfig()
    page: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("num_codes", "eval_every", "eval_episodes", "final_episodes", "hidden"),
            natural=("env_steps", "seed"),
            positive=("std",),
        )
        self._check_codes()

    def _check_codes(self) -> None:
        """Refuse what would be ignored."""
        if self.start is not None and self.num_codes is not None:
            raise ConfigurationError(
                f"expected start or num_codes, got both: the codes are those of {self.start}; "
                "leave num_codes out"
            )
        if self.start is not None and self.noise != NoiseConfig():
            raise ConfigurationError(
                f"expected start or noise.basis, got both: what is steered is what {self.start} "
                "steers; leave noise.basis out, or give it to discover"
            )
        idle: dict[str, Any] = {}
        if self.start is None:
            idle = {
                "regulariser": "discovered",
                "discoverer": "frozen",
                "accept_uncommanded": False,
            }
        if self.start is None and self.num_codes is None:
            idle |= {"balance": ConstantConfig(), "timing": None}
        given = [name for name, default in idle.items() if getattr(self, name) != default]
        if given:
            raise ConfigurationError(
                f"expected {', '.join(given)} only with codes that it acts on, got plain "
                "fine-tuning from nothing; give start (a run of discover)"
                + ("" if set(idle) - {"balance", "timing"} & set(given) else ", or num_codes")
            )
