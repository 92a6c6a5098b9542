"""Behaviour cloning of PI0, with the loss that it was made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modereg.errors import ShapeError
from modereg_integrations.transformers.statistics import Statistics

if TYPE_CHECKING:
    from modereg_integrations.transformers.policy import PI0Policy

__all__ = ["clone", "fit_statistics", "flow_matching_loss"]


def flow_matching_loss(
    policy: PI0Policy, chunk: Tensor, *observations: Any, mask: Tensor | None = None
) -> Tensor:
    r"""The loss of the model's own ``forward``, over the true actions.

    :math:`E || v(t w + (1 - t) a) - (w - a) ||^2` with the model's times, t = .999 u + .001 for u
    from Beta(1.5, 1) unless configured otherwise (Black et al., pi0, arXiv 2410.24164, section IV;
    time runs backwards here, as in transformers).

    Args:
        policy: whose model is trained.
        chunk: demonstrated chunks in physical units, ``[*B, H, A]``.
        observations: of batch B, as for ``policy.decode``.
        mask: ``[*B, H]`` bool, False where a chunk is padded; None counts every action.

    Returns:
        A scalar, in the units of the model; dimensions that only pad actions do not count.

    Raises:
        ShapeError: if the chunks or an observation have another shape.
    """
    if chunk.shape[-2:] != policy.chunk_shape:
        raise ShapeError(
            f"expected chunks of shape [*B, {policy.chunk_shape[0]}, {policy.chunk_shape[1]}], got "
            f"{tuple(chunk.shape)}"
        )
    actions = chunk.reshape(-1, *policy.chunk_shape).to(policy.model.dtype)
    if policy.statistics is not None:
        actions = policy.statistics.normalize_actions(actions)
    padding = policy.noise_shape[1] - policy.chunk_shape[1]
    padded = torch.nn.functional.pad(actions, (0, padding))
    noise = torch.randn_like(padded)
    inputs = policy.model_inputs(*observations)
    velocity = policy.model(**inputs, noise=noise, actions=padded).logits
    error = (velocity - (noise - padded))[..., : policy.chunk_shape[1]].square().mean(-1)
    if mask is None:
        return error.mean()
    kept = mask.reshape(error.shape).to(error.dtype)
    return (error * kept).sum() / kept.sum().clamp(min=1.0)


def fit_statistics(
    chunk: Tensor, state: Tensor, mask: Tensor | None = None, *, least_std: float = 1e-3
) -> Statistics:
    """Return means and deviations of demonstrated chunks ``[n, H, A]`` and states ``[n, S]``.

    Args:
        chunk: actions in physical units.
        state: states in physical units.
        mask: ``[n, H]`` bool, False where a chunk is padded; None counts every action.
        least_std: smallest deviation, in physical units, for what never changes.
    """
    actions = chunk.flatten(0, 1) if mask is None else chunk[mask]
    state = state.flatten(0, -2)
    return Statistics(
        state_mean=state.mean(0).tolist(),
        state_std=state.std(0).clamp(min=least_std).tolist(),
        actions_mean=actions.mean(0).tolist(),
        actions_std=actions.std(0).clamp(min=least_std).tolist(),
    )


def clone(
    policy: PI0Policy,
    chunk: Tensor,
    *observations: Tensor,
    mask: Tensor | None = None,
    steps: int = 2000,
    batch: int = 128,
    learning_rate: float = 3e-3,
    ema: float = 0.995,
    progress: Callable[[int, float], None] | None = None,
) -> PI0Policy:
    """Train a policy on demonstrations by :func:`flow_matching_loss`.

    Adam, with a learning rate that rises for a twentieth of the steps and falls along a cosine,
    and gradients clipped to a norm of 1. Parameters that are frozen stay so: to train the action
    expert alone, freeze ``policy.model.model.vlm``. ``modereg.recipes.pretrain.chunks_of`` cuts the
    demonstrations of a task into these windows.

    Args:
        policy: what is trained, in place; its statistics are left as they are.
        chunk: demonstrated chunks in physical units, ``[n, H, A]``.
        observations: images, instructions as ids, and states, ``[n, ...]`` each.
        mask: ``[n, H]`` bool, False where a chunk is padded; None counts every action.
        steps: gradient steps.
        batch: chunks in each.
        learning_rate: the largest.
        ema: decay of the average of the weights that is returned.
        progress: called with the step and its loss.

    Returns:
        Another policy, whose weights are the exponential average of those of the steps, in
        ``eval`` mode.
    """
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(ema))
    policy.train()
    for step in range(1, steps + 1):
        index = torch.randint(len(chunk), (batch,))
        picked = [value[index] for value in observations]
        some = None if mask is None else mask[index]
        loss = flow_matching_loss(policy, chunk[index], *picked, mask=some)
        _descend(optimizer, loss, weights)
        schedule.step()
        averaged.update_parameters(policy)
        if progress is not None:
            progress(step, float(loss.detach()))
    policy.eval()
    return cast("PI0Policy", averaged.module.eval())


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, weights: Sequence[Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
