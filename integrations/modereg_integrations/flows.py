"""What adapters of vision-language-action models share: Euler's steps, and texts of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NonTensorData, NonTensorStack
from torch import Tensor

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["flat_texts", "integrate"]


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_steps: int
) -> Tensor:
    r"""Euler steps of :math:`dx/dt = v(x, t)` from noise at t = 1 to actions at t = 0.

    The sum is kept in the type of the noise.

    Args:
        velocity: called with ``x [N, H, D]`` and ``t [N]`` float32.
        noise: ``[N, H, D]``.
        num_steps: Euler steps.

    Reference: Black et al., pi0, arXiv 2410.24164, section IV; the time runs backwards, as in
    openpi's code, LeRobot and transformers.
    """
    dt, x = -1.0 / num_steps, noise
    for step in range(num_steps):
        time = torch.full((len(x),), 1.0 + step * dt, dtype=torch.float32, device=x.device)
        x = x + dt * velocity(x, time).to(x.dtype)
    return x


def flat_texts(value: Any, rows: int, what: str) -> list[str]:
    """Return the texts of N rows, from a text for all or one for each, however tensordict has them.

    Args:
        value: a string, nested lists of strings, or a ``NonTensorData`` or ``NonTensorStack``.
        rows: N.
        what: what was expected and what to do, for the errors.

    Raises:
        ConfigurationError: if it is no text.
        ShapeError: if there is another number of texts.
    """
    if isinstance(value, NonTensorData | NonTensorStack):
        value = value.tolist()
    texts = [value] * rows if isinstance(value, str) else _leaves(value)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigurationError(f"expected {what}, got {type(value).__name__}")
    if len(texts) != rows:
        raise ShapeError(f"expected {what}: one for each of {rows} rows, got {len(texts)}")
    return texts


def _leaves(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for part in value for leaf in _leaves(part)]
