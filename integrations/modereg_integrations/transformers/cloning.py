"""Behaviour cloning of PI0, with the loss that it was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modereg.errors import ShapeError
from modereg_integrations.transformers.statistics import Statistics

if TYPE_CHECKING:
    from modereg_integrations.transformers.policy import PI0Policy

__all__ = ["fit_statistics", "flow_matching_loss"]


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
