"""Options of the recipe that begins with no policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from modereg.ddiffpg.options import DDiffPGOptions
from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers
from modereg.recipes.config.parts import LogConfig, TaskConfig

__all__ = ["FromScratchConfig"]


@dataclass(frozen=True)
class FromScratchConfig:
    """DDiffPG (arXiv 2406.00681): a diffusion policy that learns several behaviours from nothing.

    Attributes:
        out: run folder. ``policy`` in it is the policy without commands, a base as any other;
            ``commanded`` is the same policy with the mode embedding as its last observation, and
            ``modes.safetensors`` has the embeddings.
        task: the task; its ``success`` says when a goal is reached, and what ``feature_keys`` name
            is the path by which trajectories are told apart. At most 64 environments are taken
            unless ``task.num_envs`` is set.
        clusters: how trajectories are told apart: ``warped`` by a hierarchy of dynamic-time-warping
            distances, ``behaviours`` as stage 1 does, or ``one``, not at all: a single critic of
            all, an ablation.
        learning: numbers of the learner.
        method: diffusion or flow matching.
        env_steps: environment steps in all.
        prefill: batches of random episodes before learning begins.
        updates: gradient steps after each batch of episodes.
        cluster_every: batches between two clusterings.
        capacity: episodes in the replay.
        max_modes: modes that are told apart.
        embedding_dim: length of an embedding.
        hidden: widths of the denoiser.
        critic_hidden: widths of the critics and of the novelty's networks.
        inference_steps: denoising steps.
        eval_every: batches between evaluations, each of which a checkpoint closes.
        eval_episodes: episodes of an evaluation, of the policy without commands and of all modes.
        final_episodes: episodes of the last one.
        seed: of everything.
        log: loggers.
        resume: go on with an interrupted run in the same folder, or, with other ``env_steps``, make
            it longer or end it.
    """

    artefact: ClassVar[str] = "policy"
    budget: ClassVar[tuple[str, ...]] = ("env_steps",)

    out: Path = Path("runs/scratch")
    task: TaskConfig = TaskConfig()
    clusters: Literal["warped", "behaviours", "one"] = "warped"
    learning: DDiffPGOptions = DDiffPGOptions()
    method: Literal["diffusion", "flow"] = "diffusion"
    env_steps: int = 200_000
    prefill: int = 4
    updates: int = 40
    cluster_every: int = 5
    capacity: int = 4096
    max_modes: int = 24
    embedding_dim: int = 8
    hidden: tuple[int, ...] = (128, 128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    inference_steps: int = 5
    eval_every: int = 10
    eval_episodes: int = 256
    final_episodes: int = 2048
    seed: int = 0
    log: LogConfig = LogConfig()
    resume: bool = False

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=(
                *("prefill", "cluster_every", "capacity", "max_modes", "embedding_dim", "hidden"),
                *("critic_hidden", "inference_steps", "eval_every", "eval_episodes"),
                "final_episodes",
            ),
            natural=("env_steps", "updates", "seed"),
        )
        usual = TaskConfig()
        idle = ("device", "offset", "gamma", "feature_noise")
        given = [name for name in idle if getattr(self.task, name) != getattr(usual, name)]
        if given:
            raise ConfigurationError(
                f"expected a task without {', '.join(given)}, which nothing here reads: it runs on "
                "the CPU, plays chunks from their first action, and has its discount in "
                "learning.gamma; leave it out"
            )
