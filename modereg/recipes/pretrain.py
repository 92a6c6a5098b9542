"""Behaviour cloning: from a task's scripted expert to a base policy in its library's format."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modereg import plugins
from modereg.errors import ConfigurationError
from modereg.recipes.config import PretrainConfig
from modereg.recipes.events import Advanced, Event, Finished, drain
from modereg.recipes.runs import Run, seed_everything
from modereg.recipes.summaries import Summary
from modereg.tasks import Demonstrations, Task

__all__ = ["chunks_of", "pretrain", "pretrain_events"]

ROW_STEPS = 200
"""Gradient steps between two rows of the curves, each of which a checkpoint closes."""


def chunks_of(demonstrations: Demonstrations, task: Task) -> tuple[list[Tensor], Tensor, Tensor]:
    """Cut demonstrations into training windows, one for every step.

    Returns:
        The observations of each window in the order of ``task.observation_keys``, ``[n, ...]``;
        its chunk, ``[n, H, A]``, which starts ``offset`` steps earlier; and which actions of it
        are within the episode, ``[n, H]`` bool.
    """
    steps, horizon = demonstrations.actions.shape[1], task.horizon
    inside = torch.arange(steps) < demonstrations.lengths[:, None]
    episode, step = inside.nonzero(as_tuple=True)
    index = step[:, None] + torch.arange(horizon) - task.offset
    mask = (index >= 0) & (index < demonstrations.lengths[episode, None])
    chunk = demonstrations.actions[episode[:, None], index.clamp(0, steps - 1)]
    values = [demonstrations.observations[key][episode, step] for key in task.observation_keys]
    return values, chunk * mask[..., None], mask


def pretrain(config: PretrainConfig) -> Summary:
    """Clone a task's expert; see :class:`~modereg.recipes.config.PretrainConfig`.

    Returns:
        The run's summary; the policy lies in ``out/policy``.

    Raises:
        ConfigurationError: if the task has no expert.
    """
    return drain(pretrain_events(config))


def pretrain_events(config: PretrainConfig) -> Generator[Event, None, Summary]:
    """Clone step by step; :func:`~modereg.recipes.follow.follow` is the way to use it."""
    with Run(config) as run:
        yield run.started()
        summary = run.summary if run.finished else (yield from _clone(run))
        yield Finished(run.folder, summary)
        return summary


def _clone(run: Run) -> Generator[Event, None, Summary]:
    config: PretrainConfig = run.config
    task = plugins.resolve_task(config.task.name, **config.task.options)
    demonstrations = _demonstrate(run, task)
    seed_everything(config.seed)
    observations, chunk, mask = chunks_of(demonstrations, task)
    policy = _maker(config.library)(
        observation_shapes={
            key: tuple(value.shape[1:])
            for key, value in zip(task.observation_keys, observations, strict=True)
        },
        chunk_shape=tuple(chunk.shape[1:]),
        method=config.method,
        hidden=config.hidden,
        num_inference_steps=config.inference_steps,
    )
    policy.fit_normalizer(chunk, *observations)
    learner = _Learner(config, policy)
    yield from _train(run, learner, observations, chunk, mask)
    learner.averaged.module.save_pretrained(Path(config.out) / "policy")
    counts = None
    if task.num_modes is not None:
        counts = demonstrations.mode_counts(task.num_modes).tolist()
    return run.finish(
        {
            "policy": str(Path(config.out) / "policy"),
            "demonstrations": len(demonstrations),
            "windows": len(chunk),
            "demonstrated_modes": counts,
            "loss": run.rows[-1]["loss"],
        }
    )


def _maker(library: str) -> Callable[..., Any]:
    loader = plugins.policy_loader(library)
    if not hasattr(loader, "untrained"):
        raise ConfigurationError(
            f"the loader of policies {library!r} makes no fresh ones to clone; choose diffusers or "
            "transformers, or clone with that library and bring the folder"
        )
    make: Callable[..., Any] = loader.untrained
    return make


def _demonstrate(run: Run, task: Task) -> Demonstrations:
    config: PretrainConfig = run.config
    if task.demonstrate is None:
        raise ConfigurationError(
            f"task {task.name!r} has no expert to clone; bring a policy of your own instead"
        )
    run.phase("demonstrations")
    shares = None if config.shares is None else torch.tensor(config.shares)
    return task.demonstrate(config.episodes, config.seed, shares=shares)


class _Learner:
    """The policy, the exponential average of its weights, which is saved, and what trains it."""

    def __init__(self, config: PretrainConfig, policy: Any) -> None:
        self.policy = policy
        self.averaged: Any = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        self.optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.steps)

    def step(self, observations: list[Tensor], chunk: Tensor, mask: Tensor) -> float:
        """Take a gradient step on some chunks; return the loss."""
        loss = self.policy.cloning_loss(chunk, *observations, mask=mask)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.policy)
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes between steps, torch's global generator included."""
        return {
            "policy": dict(self.policy.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["generator"])


def _train(
    run: Run, learner: _Learner, observations: list[Tensor], chunk: Tensor, mask: Tensor
) -> Generator[Advanced, None, None]:
    """Go on from the last checkpoint to the configured number of steps."""
    config: PretrainConfig = run.config
    state = run.load()
    begun = 0
    if state is not None:
        begun = state["step"]
        learner.load_state_dict(state["learner"])
    run.phase("cloning", config.steps, begun)
    total = 0.0
    for step in range(begun + 1, config.steps + 1):
        index = torch.randint(len(chunk), (config.batch,))
        total += learner.step([value[index] for value in observations], chunk[index], mask[index])
        done = step % ROW_STEPS or ROW_STEPS
        run.progress(step, loss=total / done)
        if done == ROW_STEPS or step == config.steps:
            run.log({"step": step, "loss": total / done})
            run.checkpoint({"step": step, "learner": learner.state_dict()})
            yield run.advanced()
            total = 0.0
