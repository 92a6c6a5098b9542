"""Behaviour cloning: from a task's scripted expert to a base policy in diffusers' format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modereg import plugins
from modereg.errors import ConfigurationError
from modereg.recipes.config import PretrainConfig
from modereg.recipes.runs import Run, seed_everything
from modereg.tasks import Demonstrations, Task

__all__ = ["chunks_of", "pretrain"]

LOADER = "diffusers"
"""Entry point of the group ``modereg.policies`` that makes the fresh policy."""


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


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Clone a task's expert; see :class:`~modereg.recipes.config.PretrainConfig`.

    Returns:
        The run's summary; the policy lies in ``out/policy``.

    Raises:
        ConfigurationError: if the task has no expert.
    """
    run = Run(config)
    if run.finished:
        return run.summary
    task = plugins.resolve_task(config.task.name, **config.task.options)
    if task.demonstrate is None:
        raise ConfigurationError(
            f"task {task.name!r} has no expert to clone; bring a policy of your own instead"
        )
    shares = None if config.shares is None else torch.tensor(config.shares)
    demonstrations = task.demonstrate(config.episodes, config.seed, shares=shares)
    seed_everything(config.seed)
    observations, chunk, mask = chunks_of(demonstrations, task)
    policy = plugins.policy_loader(LOADER).untrained(
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
    averaged = _train(run, policy, observations, chunk, mask)
    averaged.save_pretrained(Path(config.out) / "policy")
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


def _train(run: Run, policy: Any, observations: list[Tensor], chunk: Tensor, mask: Tensor) -> Any:
    """Return the exponential average of the weights after the configured number of steps."""
    config: PretrainConfig = run.config
    averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    total = 0.0
    for step in range(1, config.steps + 1):
        index = torch.randint(len(chunk), (config.batch,))
        picked = [value[index] for value in observations]
        loss = policy.cloning_loss(chunk[index], *picked, mask=mask[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(policy)
        total += float(loss.detach())
        if step % 200 == 0 or step == config.steps:
            done = step % 200 or 200
            run.log({"step": step, "loss": total / done})
            run.progress(step, config.steps, loss=total / done)
            total = 0.0
    return averaged.module
