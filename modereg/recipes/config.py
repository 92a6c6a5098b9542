"""Configurations of the recipes: plain dataclasses, YAML in and out, no torch.

Every field is an option of the command line (``modereg finetune --help``) and a line of the
``config.yaml`` that a run writes into its folder.
"""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from modereg.errors import ConfigurationError

__all__ = [
    "DemoConfig",
    "DiscoverConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "InspectConfig",
    "LogConfig",
    "PPOConfig",
    "PretrainConfig",
    "ReportConfig",
    "TaskConfig",
    "from_yaml",
    "to_yaml",
]


@dataclass(frozen=True)
class TaskConfig:
    """Which environment, and how many of it.

    Attributes:
        name: ``task:avoid``, ``task:gaussian_mixture``, ``gymnasium:ID``, ``maniskill:ID``, or
            ``module:factory`` of your own.
        options: options of the task, such as ``pay_spread 0.3``.
        num_envs: environments in a batch; None takes what the task suggests.
    """

    name: str = "task:avoid"
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    num_envs: int | None = None


@dataclass(frozen=True)
class LogConfig:
    """Where a run writes its curves besides its own files.

    Attributes:
        tensorboard: event files for TensorBoard.
        wandb: a project of Weights & Biases, or None.
        progress: a progress bar on the terminal.
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


@dataclass(frozen=True)
class PretrainConfig:
    """Behaviour cloning of a task's scripted expert into a base policy.

    Attributes:
        out: folder of the policy, in diffusers' format.
        task: the task; it must have an expert.
        method: diffusion or flow matching.
        episodes: demonstrations.
        shares: relative frequency of each mode in them; None shows all equally often.
        hidden: widths of the denoiser.
        steps: gradient steps.
        batch: chunks in a gradient step.
        learning_rate: of Adam; falls along a cosine.
        ema: decay of the averaged weights that are saved.
        inference_steps: denoising steps of the saved policy.
        seed: of demonstrations and training.
        log: loggers.
    """

    out: Path = Path("runs/base")
    task: TaskConfig = TaskConfig()
    method: Literal["diffusion", "flow"] = "diffusion"
    episodes: int = 600
    shares: tuple[float, ...] | None = None
    hidden: tuple[int, ...] = (192, 192, 192)
    steps: int = 6000
    batch: int = 512
    learning_rate: float = 1e-3
    ema: float = 0.998
    inference_steps: int = 8
    seed: int = 0
    log: LogConfig = LogConfig()


@dataclass(frozen=True)
class DiscoverConfig:
    """Stage 1: find the modes of a frozen base policy, and a steering policy that commands them.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        out: run folder.
        task: the task.
        method: ``cluster`` clusters episodes of the base and imitates their noise; ``variational``
            is the procedure of BMD (arXiv 2605.11387), reinforcement learning on the intrinsic
            reward alone.
        estimator: variational: what rewards and learns: ``categorical`` as in the paper,
            ``contrastive`` (InfoNCE, as CIC), or ``metra`` or ``lsd`` (Wasserstein dependency).
        num_codes: K; None chooses it (cluster), or takes 16 (variational).
        oversegment: cluster: codes for each cluster found.
        episodes: cluster: episodes of the base.
        imitation_steps: cluster: gradient steps of the first fit.
        refinements: cluster: at most so many rounds of rolling out and fitting again.
        refine_episodes: cluster: episodes of a refinement.
        refine_steps: cluster: gradient steps of a refinement.
        std: cluster: standard deviation of the noise in the first and the last refinement.
        target: cluster: stop once this share of the codes reaches itself with success in at
            least 0.8 of its episodes.
        iterations: variational: iterations of PPO.
        timing: variational: when the intrinsic reward is paid; None chooses ``final`` where the
            time limit terminates and ``difference`` elsewhere.
        hidden: widths of the steering policy and the discoverer.
        ppo: variational: options of PPO.
        seed: of everything.
        log: loggers.
        resume: go on with an interrupted run in the same folder.
    """

    base: str = "runs/base"
    out: Path = Path("runs/discover")
    task: TaskConfig = TaskConfig()
    method: Literal["cluster", "variational"] = "cluster"
    estimator: Literal["categorical", "contrastive", "lsd", "metra"] = "categorical"
    num_codes: int | None = None
    oversegment: float = 2.0
    episodes: int = 16384
    imitation_steps: int = 1500
    refinements: int = 5
    refine_episodes: int = 4096
    refine_steps: int = 400
    std: tuple[float, float] = (0.7, 0.3)
    target: float = 0.95
    iterations: int = 80
    timing: Literal["dense", "difference", "final"] | None = None
    hidden: tuple[int, ...] = (128, 128)
    ppo: PPOConfig = PPOConfig(kl_coef=0.02)
    seed: int = 0
    log: LogConfig = LogConfig()
    resume: bool = False


@dataclass(frozen=True)
class FinetuneConfig:
    """Stage 2: PPO on the steering policy, with the intrinsic reward beside the task's.

    Without ``start`` this is plain fine-tuning: one code, coefficient 0, everything else alike.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        start: run folder of ``discover``; None fine-tunes plainly.
        out: run folder.
        task: the task.
        coef: weight of the intrinsic reward, which is divided by H(p).
        regulariser: ``discovered`` rewards the codes of ``start``; ``scratch`` ignores what
            stage 1 gave the steering policy and begins at the base, an ablation.
        discoverer: ``frozen``, or ``online``: q keeps learning (always so after ``variational``).
        num_codes: with ``scratch`` and no ``start``: codes of an online q from nothing.
        timing: when the intrinsic reward is paid; None chooses as ``discover`` does.
        env_steps: environment steps in all, those of stage 1 included.
        std: standard deviation of the noise at the start of stage 2; None leaves stage 1's.
        eval_every: iterations between evaluations.
        eval_episodes: episodes of an evaluation during the run.
        final_episodes: episodes of the last one.
        hidden: widths of the critic, and of the steering policy without ``start``.
        ppo: options of PPO.
        seed: of everything.
        log: loggers.
        resume: go on with an interrupted run in the same folder.
    """

    base: str = "runs/base"
    start: str | None = None
    out: Path = Path("runs/finetune")
    task: TaskConfig = TaskConfig()
    coef: float = 0.3
    regulariser: Literal["discovered", "scratch"] = "discovered"
    discoverer: Literal["frozen", "online"] = "frozen"
    num_codes: int | None = None
    timing: Literal["dense", "difference", "final"] | None = None
    env_steps: int = 4_000_000
    std: float | None = None
    eval_every: int = 10
    eval_episodes: int = 1024
    final_episodes: int = 4096
    hidden: tuple[int, ...] = (128, 128)
    ppo: PPOConfig = PPOConfig()
    seed: int = 0
    log: LogConfig = LogConfig()
    resume: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a base policy, or a run on it.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        run: run folder of ``discover`` or ``finetune``; None judges the base itself.
        out: folder for ``evaluation.json``; None prints only.
        task: the task.
        episodes: episodes of each evaluation.
        seed: of the evaluation.
    """

    base: str = "runs/base"
    run: str | None = None
    out: Path | None = None
    task: TaskConfig = TaskConfig()
    episodes: int = 4096
    seed: int = 12345


@dataclass(frozen=True)
class InspectConfig:
    """Say what a base policy can do before anything is trained.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        out: folder for ``inspection.json``; None prints only.
        task: the task.
        episodes: episodes under N(0, I).
        noises: M noises, each held for whole episodes: information is at most log M nats.
        held_episodes: episodes of all held noises together.
        smoothing: noise on the final feature, in units of its common scale.
        classifier_steps: gradient steps of the classifier that is trained at each smoothing.
        seed: of everything.
    """

    base: str = "runs/base"
    out: Path | None = None
    task: TaskConfig = TaskConfig()
    episodes: int = 2048
    noises: int = 32
    held_episodes: int = 2048
    smoothing: tuple[float, ...] = (0.1, 0.2, 0.4)
    classifier_steps: int = 600
    seed: int = 12345


@dataclass(frozen=True)
class DoctorConfig:
    """Look whether this machine has what modereg needs, and mend what can be mended.

    Attributes:
        fix: run the command that mends each fault, after asking.
        yes: do not ask.
        json: print JSON instead of a table.
    """

    fix: bool = False
    yes: bool = False
    json: bool = False


@dataclass(frozen=True)
class ReportConfig:
    """Draw finished runs on one page, side by side; runs that differ in the seed alone share lines.

    Attributes:
        runs: run folders of ``discover`` or ``finetune``, of one task on one base policy.
        out: folder of the page and its pictures; None takes the run's own, or ``runs/report``
            for several.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: Path | None = None


@dataclass(frozen=True)
class DemoConfig:
    """The main job on Avoid: clone a base, fine-tune it plainly and with modereg, report.

    Attributes:
        out: folder of all runs, ``summary.json`` and the report ``index.html``.
        pay_spread: routes pay between 1 minus and 1 plus this.
        wide_spread: a second, wider spread at which the coefficient decides; None leaves it out.
        env_steps: environment steps of each method, stage 1 included.
        wide_env_steps: the same at the wider spread, longer, because forgetting takes time.
        episodes: episodes of the evaluations in the table.
        jobs: runs side by side; each takes one core.
        seed: of everything.
    """

    out: Path = Path("runs/demo")
    pay_spread: float = 0.3
    wide_spread: float | None = 0.5
    env_steps: int = 4_000_000
    wide_env_steps: int = 8_000_000
    episodes: int = 4096
    jobs: int = 2
    seed: int = 0


def to_yaml(config: Any) -> str:
    """Write a configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def from_yaml(kind: type, text: str) -> Any:
    """Read a configuration of a kind from YAML; what is absent keeps its default.

    Raises:
        ConfigurationError: if an entry is unknown, or the text is no YAML or no mapping.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"expected YAML, got a damaged text: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"expected a mapping of options, got {type(values).__name__}")
    return _build(kind, values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _build(kind: type, values: dict[str, Any]) -> Any:
    names = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigurationError(
            f"{kind.__name__} has no option {', '.join(unknown)}; it has {', '.join(sorted(names))}"
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(typing.cast(type, hint), value)
    if value is not None and (hint is Path or Path in typing.get_args(hint)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
