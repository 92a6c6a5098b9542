"""Several behaviours from nothing: DDiffPG's loop, and a base policy for stage 1 at its end.

Copy this file and change it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import TransformedEnv

from modereg import keys, plugins
from modereg.ddiffpg.actor import Commanded
from modereg.ddiffpg.learner import DDiffPG
from modereg.ddiffpg.making import Sizes, chunked_env, fit_scales, make_clusters, make_learner
from modereg.ddiffpg.modes import paths_of
from modereg.errors import ConfigurationError
from modereg.files import write_atomic
from modereg.metrics import behaviour_metrics
from modereg.recipes.config import FromScratchConfig
from modereg.recipes.events import Advanced, Evaluated, Event, Progressed, Steps, counted
from modereg.recipes.setup import make_envs, with_layout
from modereg.rollouts import Episodes, iterate_episodes
from modereg.seeding import (
    derived_seed,
    generator_state,
    isolated_generators,
    set_generator_state,
)
from modereg.tasks import Task

__all__ = ["Judge", "from_scratch_steps", "make", "mode_hits"]

MOST_ENVS = 64
"""Environments in a batch, unless the configuration says how many."""

EVALUATION_SEED, FINAL_SEED = 10_000, 20_000
"""Added to a run's seed for the evaluations during it and at its end."""

NOTHING_FOUND = (
    "no way to the goal was found, so what is saved commands nothing, and plays what exploration "
    "did; give more env_steps, a larger learning.explore-noise, or a goal that random actions "
    "reach now and then"
)

POLICY, COMMANDED, MODES = "policy", "commanded", "modes.safetensors"
"""What a finished run holds: the policy without commands, with them, and their embeddings."""


def from_scratch_steps(config: FromScratchConfig, state: dict[str, Any] | None) -> Steps:
    """Learn from nothing, from a checkpoint where there is one; return the summary."""
    learner, judge = make(config)
    batches = 0
    if state is None:
        yield Progressed("random episodes", 0, config.env_steps)
        learner.prefill(config.prefill)
        _check_budget(config, learner.collector.env_steps)
        fit_scales(learner)
    else:
        batches = state["batches"]
        learner.load_state_dict(state["learner"])
        set_generator_state(state["generators"])
    while learner.collector.env_steps < config.env_steps:
        row = _batch(learner, config, batches)
        batches += 1
        judged: dict[str, Any] = {}
        if batches % config.eval_every == 0:
            seed = derived_seed(config.seed + EVALUATION_SEED, batches)
            judged = yield from judge.figures(learner, config.eval_episodes, seed)
            row |= _columns(judged)
        done = learner.collector.env_steps
        saves = judged or done >= config.env_steps
        saved = (lambda: _state(learner, batches)) if saves else None  # noqa: B023
        yield Advanced("learning", row, done, max(config.env_steps, done), saved)
        if judged:
            yield Evaluated(done, judged["sampled"])
    return (yield from _close(config, learner, judge))


def make(config: FromScratchConfig) -> tuple[DDiffPG, Judge]:
    """Return the learner of a configuration, with nothing learned, and what judges it."""
    loader = plugins.policy_loader("diffusers")
    task = plugins.resolve_task(config.task.name, **config.task.options)
    envs = config.task.num_envs or min(task.num_envs, MOST_ENVS)
    with isolated_generators(derived_seed(config.seed, 2)):
        env, judge_env = (make_envs(task, envs, config.task.workers) for _ in range(2))
    task = with_layout(task, config.task, lambda: env)
    learner = make_learner(
        env,
        task.layout,
        task.observation_keys,
        loader,
        make_clusters(config.clusters, config.seed),
        method=config.method,
        sizes=Sizes(**{name: getattr(config, name) for name in Sizes.__dataclass_fields__}),
        options=config.learning,
        seed=config.seed,
    )
    judged = chunked_env(judge_env, task.layout, learner.actor.policy, 1.0)
    return learner, Judge(task, judged)


def _check_budget(config: FromScratchConfig, spent: int) -> None:
    if config.env_steps <= spent:
        raise ConfigurationError(
            f"expected env_steps of more than the {spent} that the random episodes took, got "
            f"{config.env_steps}; give more, or lower prefill or task.num_envs"
        )


def _batch(learner: DDiffPG, config: FromScratchConfig, batches: int) -> dict[str, float]:
    """Collect episodes, find modes where it is time to, and learn; return a row of the curves."""
    row = learner.collect()
    if batches % config.cluster_every == config.cluster_every - 1:
        learner.find_modes()
    losses = [learner.learn() for _ in range(config.updates)]
    for name in losses[0] if losses else ():
        row[name] = float(torch.stack([part[name] for part in losses]).mean())
    steps = learner.collector.env_steps
    return {"iteration": batches, "env_steps": steps, "modes": learner.modes.number} | row


def _state(learner: DDiffPG, batches: int) -> dict[str, Any]:
    return {
        "learner": learner.state_dict(),
        "batches": batches,
        "generators": generator_state(),
    }


class Judge:
    """Judges what was learned, without commands and by each of them.

    Args:
        task: tells what a label of a mode means.
        env: another environment than the learner's, undiscounted.
    """

    def __init__(self, task: Task, env: TransformedEnv) -> None:
        self.task, self.env = task, env

    def figures(
        self, learner: DDiffPG, episodes: int, seed: int
    ) -> Generator[Event, None, dict[str, Any]]:
        """Return ``sampled``, of no command, and ``commanded``, of each mode alike.

        Each is a :class:`~modereg.metrics.BehaviourMetrics` as a dictionary; ``hits`` beside them
        are :func:`mode_hits`. Modes are told by the task's label, and where it has none by the
        clusters.
        """
        number = learner.modes.number
        found: dict[str, Any] = {}
        ways: dict[str, Tensor] = {"sampled": torch.zeros_like(learner.modes.embeddings[:1])}
        if number:
            ways["commanded"] = learner.modes.embeddings[1:]
        for name, embeddings in ways.items():
            played = yield from self.play(
                learner, embeddings, episodes, derived_seed(seed, len(found))
            )
            found[name] = self.judge(learner, *played, len(embeddings))
        if number:
            found["hits"] = mode_hits(found["commanded"])
        return found

    def play(
        self, learner: DDiffPG, embeddings: Tensor, count: int, seed: int
    ) -> Generator[Event, None, tuple[Episodes, Tensor]]:
        """Play episodes, each row by one of the embeddings; return them and which it was.

        More embeddings than there are rows are played one part after another.
        """
        size = self.env.batch_size.numel()
        played: list[Episodes] = []
        codes: list[Tensor] = []
        with isolated_generators(seed):
            self.env.set_seed(derived_seed(seed, 1))
            for number, part in enumerate(embeddings.split(size)):
                share, rows = (
                    -(-count * len(part) // len(embeddings)),
                    torch.arange(size) % len(part),
                )
                parts = iterate_episodes(
                    self.env,
                    share,
                    max_decisions=learner.collector.max_decisions,
                    policy=Commanded(learner.actor, embeddings[number * size + rows]),
                    final=self._final(),
                )
                played.append((yield from counted("judging", share, parts)))
                codes.append(number * size + rows[torch.arange(share) % size])
        return Episodes.cat(played), torch.cat(codes)

    def _final(self) -> list[Any]:
        there = self.env.observation_spec.keys(True, True)
        return [*(key for key in (keys.SUCCESS, keys.MODE) if key in there), keys.HISTORY]

    def judge(
        self, learner: DDiffPG, episodes: Episodes, codes: Tensor, num_codes: int
    ) -> dict[str, Any]:
        """Return the figures of episodes, by their label or their nearest cluster."""
        final, number = episodes.final, learner.modes.number
        modes, num_modes = final.get(keys.MODE, None), self.task.num_modes
        lengths = episodes.valid.sum(1)
        paths = final.get(keys.HISTORY).unflatten(-1, (episodes.valid.shape[1] + 1, -1))
        played = TensorDict({"path": paths, "length": lengths}, [len(codes)])
        nearest = learner.modes.modes_of(paths_of(played, torch.arange(len(codes)))) - 1
        if modes is None or num_modes is None:
            modes, num_modes = nearest, number or None
        own = nearest if num_codes == number and number else None
        return behaviour_metrics(
            final.get(keys.SUCCESS).squeeze(-1),
            codes,
            num_codes,
            returns=episodes.returns,
            modes=None if num_modes is None else modes.reshape(len(codes)),
            num_modes=num_modes,
            predicted_codes=own,
        ).to_dict()


def mode_hits(figures: dict[str, Any]) -> list[float]:
    """Return how often each command shows its mode, with success: the one that it shows most.

    Args:
        figures: of commanded episodes, with ``code_mode_table``.
    """
    shares, episodes = figures["code_shares"], figures["episodes"]
    table = figures["code_mode_table"]
    return [max(row) / max(share * episodes, 1.0) for row, share in zip(table, shares)]


def _columns(judged: dict[str, Any]) -> dict[str, Any]:
    """Return what the curves show of an evaluation; success never stands alone."""
    names = ("success", "mean_return", "entropy", "present_modes")
    row = {name: judged["sampled"].get(name) for name in names}
    if "commanded" in judged:
        row["commanded"] = judged["commanded"]["success"]
        row["commandable_modes"] = judged["commanded"]["commandable_modes"]
        row["hits"] = sum(judged["hits"]) / len(judged["hits"])
    return {name: value for name, value in row.items() if value is not None}


def _close(config: FromScratchConfig, learner: DDiffPG, judge: Judge) -> Steps:
    """Save the policy in its two forms, judge it, and return the summary."""
    out, policy = Path(config.out), learner.actor.acting
    loader = plugins.policy_loader("diffusers")
    if not learner.modes.number:
        warnings.warn(NOTHING_FOUND, stacklevel=2)
    free: Any = loader.without(policy, keys.MODE_EMBEDDING)
    saved: Any = policy
    saved.save_pretrained(out / COMMANDED)
    write_atomic(out / MODES, save({"embeddings": learner.modes.embeddings[1:].contiguous()}))
    free.save_pretrained(out / POLICY)
    seed = config.seed + FINAL_SEED
    judged = yield from judge.figures(learner, config.final_episodes, seed)
    return {
        "method": "ddiffpg",
        "policy": str(out / POLICY),
        "env_steps": learner.collector.env_steps,
        "modes": learner.modes.number,
        **judged,
    }
