"""Denoising as a chain of Gaussian steps: their coefficients, likelihoods and clips."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["denoising_clip", "flow_step", "gaussian_step_kl", "gaussian_step_log_prob"]

RATE = 3.0
"""How fast DPPO's clip range grows along the chain."""


def flow_step(times: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Coefficients of stochastic Euler steps that keep the marginals of a flow.

    Along the path :math:`x_t = t a + (1 - t) w` with velocity v the score is
    :math:`(t v - x) / (1 - t)`. Noise of size :math:`\sigma_t = \sigma \sqrt{1 - t}` with the drift

    .. math:: v + \tfrac{1}{2} \sigma_t^2 \, \frac{t v - x}{1 - t}
        = v + \tfrac{1}{2} \sigma^2 (t v - x)

    therefore leaves the marginals of the flow as they are, up to the size of the steps, without
    a pole at t = 1.

    Args:
        times: t at the K steps and at the end, ``[K + 1]``, rising from 0 to 1.
        scale: sigma.

    Returns:
        ``keep, gain, std``, ``[K]`` each: the next x is drawn from
        :math:`N(keep \, x + gain \, v, std^2 I)`.
    """
    t, dt = times[:-1], times.diff()
    half = 0.5 * scale**2
    return 1.0 - half * dt, dt * (1.0 + half * t), scale * ((1.0 - t) * dt).sqrt()


def gaussian_step_log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r""":math:`\log N(x; \mu, \sigma^2 I)`, the sum over the numbers of a chunk.

    Args:
        sample: x, ``[*B, H, A]``.
        mean: ``[*B, H, A]``.
        std: sigma, ``[*B]``, positive.

    Returns:
        ``[*B]`` nats.
    """
    size = mean.shape[-2:].numel()
    away = ((sample - mean) / std[..., None, None]).square().flatten(-2).sum(-1)
    return -0.5 * away - size * (std.log() + 0.5 * math.log(2 * math.pi))


def gaussian_step_kl(mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    r""":math:`KL(N(\mu, \sigma^2 I) \| N(\mu', \sigma^2 I)) = |\mu - \mu'|^2 / 2 \sigma^2`.

    Args:
        mean: ``[*B, H, A]``.
        other: ``[*B, H, A]``.
        std: sigma, ``[*B]``, positive.

    Returns:
        ``[*B]`` nats.
    """
    away = ((mean - other) / std[..., None, None]).square().flatten(-2).sum(-1)
    return 0.5 * away


def denoising_clip(first: float, last: float, steps: int) -> Tensor:
    r"""Clip ranges of the steps of a chain, the noisiest one first.

    .. math:: \epsilon_i = b + (c - b) \frac{e^{3 t} - 1}{e^3 - 1}, \quad t = \frac{i}{K - 1},

    from b at the first step to c at the last (DPPO, arXiv 2409.00588); c alone for one step.

    Args:
        first: b.
        last: c.
        steps: K.

    Returns:
        ``[K]``.
    """
    place = torch.linspace(0.0, 1.0, steps) if steps > 1 else torch.ones(1)
    return first + (last - first) * torch.expm1(RATE * place) / math.expm1(RATE)
