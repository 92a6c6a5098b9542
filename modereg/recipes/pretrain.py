"""Behaviour cloning: from a task's scripted expert to a base policy in its library's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modereg import plugins
from modereg.errors import ConfigurationError
from modereg.recipes.config import PretrainConfig
from modereg.recipes.events import Advanced, Progressed, Steps
from modereg.recipes.setup import check_device
from modereg.recordings import make_recording, save_recording
from modereg.seeding import (
    derived_seed,
    generator_state,
    isolated_generators,
    set_generator_state,
)
from modereg.tasks import Demonstrations, Task

__all__ = ["chunks_of", "pretrain_steps"]

ROW_STEPS = 200
"""Gradient steps between two rows of the curves, each of which a checkpoint closes."""


def chunks_of(demonstrations: Demonstrations, task: Task) -> tuple[list[Tensor], Tensor, Tensor]:
    """Cut demonstrations into training windows, one for every step.

    Returns:
        The observations of each window in the order of ``task.observation_keys``, ``[n, ...]``;
        its chunk, ``[n, H, A]``, which starts ``layout.offset`` steps earlier; and which actions of
        it are within the episode, ``[n, H]`` bool.
    """
    steps, horizon = demonstrations.actions.shape[1], task.layout.chunk_length
    inside = torch.arange(steps) < demonstrations.lengths[:, None]
    episode, step = inside.nonzero(as_tuple=True)
    index = step[:, None] + torch.arange(horizon) - task.layout.offset
    mask = (index >= 0) & (index < demonstrations.lengths[episode, None])
    chunk = demonstrations.actions[episode[:, None], index.clamp(0, steps - 1)]
    values = [demonstrations.observations[key][episode, step] for key in task.observation_keys]
    return values, chunk * mask[..., None], mask


def pretrain_steps(config: PretrainConfig, state: dict[str, Any] | None) -> Steps:
    """Clone a task's expert, from a checkpoint where there is one; return the summary.

    Raises:
        ConfigurationError: if the task has no expert, or one is to be recorded that says not what
            it played.
    """
    task = plugins.resolve_task(config.task.name, **config.task.options)
    device = check_device(config.device)
    if task.demonstrate is None:
        raise ConfigurationError(
            f"task {task.name!r} has no expert to clone; bring a policy of your own instead"
        )
    yield Progressed("demonstrations")
    shares = None if config.shares is None else torch.tensor(config.shares)
    with isolated_generators(derived_seed(config.seed, 1)):
        demonstrations = task.demonstrate(config.episodes, config.seed, shares=shares)
        if config.record:
            recording = make_recording(demonstrations.trajectories(), task.make_env(1))
            save_recording(Path(config.out) / "demonstrations.safetensors", recording)
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
    policy.fit_normalizer(chunk, *observations, mask=mask)
    cloner = _Cloner(config, policy.to(device))
    begun = 0
    if state is not None:
        begun = state["step"]
        cloner.load_state_dict(state["cloner"])
    yield Progressed("cloning", begun, config.steps)
    total = 0.0
    for step in range(begun + 1, config.steps + 1):
        index = torch.randint(len(chunk), (config.batch,))
        batch = [value[index].to(device) for value in (*observations, chunk, mask)]
        total += cloner.step(batch[:-2], batch[-2], batch[-1])
        done = step % ROW_STEPS or ROW_STEPS
        if done == ROW_STEPS or step == config.steps:
            row = {"step": step, "loss": total / done}
            state = {"step": step, "cloner": cloner.state_dict()}
            yield Advanced("cloning", row, step, config.steps, lambda: state)  # noqa: B023
            loss, total = total / done, 0.0
    folder = Path(config.out) / "policy"
    cloner.averaged.module.save_pretrained(folder)
    counts = None
    if task.num_modes is not None:
        counts = demonstrations.mode_counts(task.num_modes).tolist()
    return {
        "policy": str(folder),
        "demonstrations": len(demonstrations),
        "windows": len(chunk),
        "demonstrated_modes": counts,
        "loss": loss,
    }


def _maker(library: str) -> Callable[..., Any]:
    loader = plugins.policy_loader(library)
    if not hasattr(loader, "untrained"):
        raise ConfigurationError(
            f"the loader of policies {library!r} makes no fresh ones to clone; choose diffusers or "
            "transformers, or clone with that library and bring the folder"
        )
    make: Callable[..., Any] = loader.untrained
    return make


class _Cloner:
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
        """Return everything that changes between steps, the global generators included."""
        return {
            "policy": dict(self.policy.state_dict()),
            "averaged": dict(self.averaged.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": generator_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        set_generator_state(state["generators"])
