"""Options of the recipes that train: pretrain, discover and finetune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modereg.recipes.config.parts import LogConfig, PPOConfig, TaskConfig

__all__ = ["DiscoverConfig", "FinetuneConfig", "PretrainConfig"]


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
        seed: of demonstrations and training.
        log: loggers.
        resume: go on with an interrupted run in the same folder.
    """

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
    seed: int = 0
    log: LogConfig = LogConfig()
    resume: bool = False


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
        validation: cluster: share of the noises that is held out of every fit and stops it, such as
            0.1; worth it with few episodes, or where observations tell episodes apart.
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
    validation: float = 0.0
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
