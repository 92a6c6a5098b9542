r"""The sampling loop of DDIM or of an Euler flow as steps with noise in them.

DDIM's noise is its own, eta (Song et al., arXiv 2010.02502, equation 16): coefficients and standard
deviations are found by running the scheduler's ``step``. An Euler flow gets noise that keeps its
marginals (:func:`~modereg.functional.flow_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg.policies import Clipping, Denoising, NoisePath
from modereg_integrations.diffusers.clipping import probe_step
from modereg_integrations.diffusers.schedule import Schedule

__all__ = ["noisy_steps"]

Model = Callable[..., Tensor]


def noisy_steps(
    model: Model, scheduler: Any, schedule: Schedule, spacing: Mapping[str, Any], scale: float
) -> Denoising:
    """Return the steps of a scheduler with noise.

    Args:
        model: of :class:`~modereg.policies.Denoising`.
        scheduler: of diffusers; it is copied.
        schedule: how it decodes without noise, which the steps are compared with.
        spacing: what its ``set_timesteps`` is given.
        scale: eta of DDIM, sigma of a flow.

    Raises:
        ConfigurationError: if it is no DDIM or Euler flow, or ``scale`` is none of its own.
    """
    kinds = {DDIMScheduler: _diffusion, FlowMatchEulerDiscreteScheduler: _flow}
    make = next((made for kind, made in kinds.items() if isinstance(scheduler, kind)), None)
    if make is None or not _agrees(make(model, scheduler, spacing, 0.0), schedule):
        raise ConfigurationError(
            "expected DDIMScheduler without thresholding, or FlowMatchEulerDiscreteScheduler whose "
            f"sigmas fall, whose steps with noise are known, got {type(scheduler).__name__}; give "
            "the policy such a scheduler, or train its noise instead (finetune ppo, sac or dsrl)"
        )
    steps = make(model, scheduler, spacing, scale)
    if not bool(torch.isfinite(torch.stack([steps.keep, steps.gain, steps.std])).all()):
        raise ConfigurationError(
            f"expected a noise in [0, 1] for {type(scheduler).__name__}, whose eta it is, got "
            f"{scale}"
        )
    return steps


def _diffusion(model: Model, scheduler: Any, spacing: Mapping[str, Any], eta: float) -> Denoising:
    clips, kind = bool(scheduler.config.clip_sample), type(scheduler)
    own, free = (kind.from_config(scheduler.config, clip_sample=each) for each in (clips, False))
    for each in (own, free):
        each.set_timesteps(**spacing)
    zero, one = torch.zeros((1, 1, 1), dtype=torch.float64), torch.ones((1, 1, 1)).double()
    unit = torch.eye(2, dtype=torch.float64)[:, None, None, :]
    bound = float(scheduler.config.clip_sample_range)
    rows = []
    for time in own.timesteps:
        still, drawn = (partial(free.step, eta=eta, variance_noise=n) for n in (zero, one))
        found = still(unit[1], time, unit[0], return_dict=False)[:2]
        (keep, gain), predicted = (each.flatten().tolist() for each in found)
        std = float(drawn(zero, time, zero, return_dict=False)[0])
        share, weight = float(own.alphas_cumprod[time]), 0.0
        if clips:
            _, update = probe_step(own, free, time, bound, eta=eta, variance_noise=zero)
            keep, gain, weight = (dict(update).get(index, 0.0) for index in range(3))
        rows.append([keep, gain, std, share**0.5, (1.0 - share) ** 0.5, *predicted, weight])
    keeps, gains, stds, *path, weights = torch.tensor(rows, dtype=torch.float64).unbind(1)
    clipping = Clipping(bound, weights) if clips else None
    return Denoising(model, keeps, gains, stds, NoisePath(*path), clipping=clipping)


def _flow(model: Model, scheduler: Any, spacing: Mapping[str, Any], sigma: float) -> Denoising:
    """Of the velocity data - noise; the scheduler's is noise - data, at a time of 1 - sigma."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(**spacing)
    return Denoising.of_flow(model, 1.0 - own.sigmas.double(), sigma, sign=-1.0)


def _agrees(steps: Denoising, schedule: Schedule) -> bool:
    """Whether steps without noise decode as a schedule does."""
    if len(steps.keep) != len(schedule.timesteps) or not bool(steps.std.isfinite().all()):
        return False
    generator = torch.Generator().manual_seed(0)
    shape = (len(steps.keep) + 1, 8, 4, 2)
    noise, *outputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = steps._replace(model=lambda _, step: outputs[int(step[0])])
    found = noise
    for index in range(len(outputs)):
        found = steps.mean(found, torch.full((len(noise),), index))
    expected = schedule.integrate(noise, lambda _, step: outputs[step])
    return bool(torch.allclose(found, expected, rtol=1e-4, atol=1e-4))
