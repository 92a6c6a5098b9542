"""The action of a single step, and the chunk that is made of it."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["chunk_spec", "clip_to", "single_action"]


def single_action(spec: Composite, action_key: NestedKey) -> TensorSpec:
    """Return the spec of an action ``[*B, A]``.

    Raises:
        ConfigurationError: if there is no such action, or it is discrete.
        ShapeError: if it is no vector.
    """
    present = list(spec.keys(True, True))
    if action_key not in present:
        raise ConfigurationError(
            f"expected an environment with the action {action_key!r}, got {present}; pass "
            "action_key"
        )
    action = spec[action_key]
    if not action.dtype.is_floating_point:
        raise ConfigurationError(
            f"expected a continuous action, got {action.dtype} of {type(action).__name__}; "
            "chunks of discrete actions are not supported"
        )
    if len(action.shape) != len(spec.shape) + 1:
        raise ShapeError(
            f"expected an action of shape [*B, A] with batch {tuple(spec.shape)}, got "
            f"{tuple(action.shape)}; flatten the action first"
        )
    return action


def chunk_spec(action: TensorSpec, horizon: int) -> TensorSpec:
    """Return the spec of a chunk ``[*B, horizon, A]`` of actions.

    It has the bounds of the action if all of them are finite. Where some are not, TorchRL's random
    values are NaN, so there it is unbounded, and only what is played is clipped.
    """
    shape = (*action.shape[:-1], horizon, action.shape[-1])
    if isinstance(action, Bounded):
        low, high = (b.unsqueeze(-2).expand(shape) for b in (action.low, action.high))
        if bool((low.isfinite() & high.isfinite()).all()):
            return Bounded(low, high, shape, dtype=action.dtype, device=action.device)
    return Unbounded(shape, dtype=action.dtype, device=action.device)


def clip_to(action: TensorSpec, window: Tensor) -> Tensor:
    """Return actions ``[*B, H, A]`` within the bounds, dimension by dimension, where there are."""
    if not isinstance(action, Bounded):
        return window
    low, high = action.low.unsqueeze(-2), action.high.unsqueeze(-2)
    return torch.minimum(torch.maximum(window, low), high)
