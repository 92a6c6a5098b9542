"""Actions that climb a critic: what the actor is taught instead of a gradient through its chain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modereg.errors import ConfigurationError

__all__ = ["climb"]


def climb(
    value: Callable[[Tensor], Tensor], actions: Tensor, *, steps: int = 20, rate: float = 0.03
) -> Tensor:
    r"""Return actions moved up a value by Adam, within [-1, 1] (DDiffPG, arXiv 2406.00681, 4.1).

    The actor is then trained on them as on demonstrations, so that no gradient goes through its
    denoising chain.

    Args:
        value: of actions, ``[*B, C]`` to ``[*B]``, differentiable; each row's depends on the row
            alone.
        actions: where it begins, ``[*B, C]``.
        steps: of Adam, with a state of its own in each call.
        rate: length of a step in each dimension, about.

    Raises:
        ConfigurationError: if ``steps`` is negative or ``rate`` not above 0.
    """
    if steps < 0 or not rate > 0:
        raise ConfigurationError(
            f"expected steps of at least 0 and a rate above 0, got {steps} and {rate}"
        )
    moved = actions.detach().clamp(-1.0, 1.0).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], rate)
    for _ in range(steps):
        (moved.grad,) = torch.autograd.grad(-value(moved).sum(), moved)
        optimizer.step()
        with torch.no_grad():
            moved.clamp_(-1.0, 1.0)
    return moved.detach()
