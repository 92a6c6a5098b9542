r"""The sampling loop of a diffusers scheduler, reduced to the numbers that it applies.

A deterministic sampler without clipping is linear in the noise and the denoiser's outputs. With
:math:`u_i` what the denoiser is shown at step i and :math:`m_i` what it returns,

.. math:: u_0 = k w, \qquad u_{i+1} = \sum_{j \le i} c_{ij} u_j + d_{ij} m_j, \qquad u_S = a,

for coefficients that depend on the scheduler alone. They are found by running the scheduler once on
unit vectors, whatever its algorithm; a random run then tells whether they reproduce it. One that
clips or thresholds is not linear and keeps its own ``step``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, StochasticSamplerError

__all__ = ["AffineSchedule", "Schedule", "SteppedSchedule", "make_schedule"]

Model = Callable[[Tensor, int], Tensor]
"""Denoiser bound to its observations: ``model(sample [N, H, A], step) -> [N, H, A]``."""

Terms = tuple[tuple[int, float], ...]
"""Coefficients of one step: entry 2j of the history is u_j, entry 2j + 1 is m_j."""


@dataclass(frozen=True)
class AffineSchedule:
    """Precomputed coefficients of a sampling loop.

    Attributes:
        timesteps: ``[S]`` on the CPU, what the denoiser is told at each of its S calls.
        start: factor of the noise, k.
        steps: for each call the terms of the denoiser's next input, or of the result.
    """

    timesteps: Tensor
    start: float
    steps: tuple[Terms, ...]

    def integrate(self, noise: Tensor, model: Model) -> Tensor:
        """Run the loop from noise ``[N, H, A]`` to the sample ``[N, H, A]``."""
        history = [noise if self.start == 1.0 else noise * self.start]
        for index, terms in enumerate(self.steps):
            history.append(model(history[-1], index))
            history.append(_combine(terms, history))
        return history[-1]


@dataclass(frozen=True)
class SteppedSchedule:
    """A sampling loop that calls the scheduler's own ``step``.

    Attributes:
        timesteps: ``[S]`` on the CPU, what the denoiser is told at each of its S calls.
        scheduler: a scheduler that nobody else uses, for it keeps state between steps.
        num_inference_steps: what ``set_timesteps`` is given before each loop.
    """

    timesteps: Tensor
    scheduler: Any
    num_inference_steps: int

    def integrate(self, noise: Tensor, model: Model) -> Tensor:
        """Run the loop from noise ``[N, H, A]`` to the sample ``[N, H, A]``."""
        return _run(self.scheduler, self.num_inference_steps, noise, model)


Schedule = AffineSchedule | SteppedSchedule


def make_schedule(scheduler: Any, num_inference_steps: int) -> Schedule:
    """Probe a scheduler: is it deterministic, and is it linear?

    Args:
        scheduler: any scheduler of diffusers; it is copied, not changed.
        num_inference_steps: given to its ``set_timesteps``.

    Raises:
        StochasticSamplerError: if it draws random numbers in its steps.
        ConfigurationError: if it cannot make that many steps, or returns a non-finite sample.
    """
    scheduler = copy.deepcopy(scheduler)
    try:
        scheduler.set_timesteps(num_inference_steps)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{type(scheduler).__name__} refuses num_inference_steps={num_inference_steps}: {error}"
        ) from error
    timesteps = scheduler.timesteps.clone()
    # Magnitudes below and above 1, so that clipping shows; float64, so that nothing else does.
    runs = [_random_run(scheduler, num_inference_steps, len(timesteps), seed) for seed in (0, 1)]
    _check_deterministic(scheduler, *(result for _, _, result in runs))
    affine = _probe(scheduler, num_inference_steps, timesteps)
    if affine is not None and _reproduces(affine, *runs[0]):
        return affine
    return SteppedSchedule(timesteps, scheduler, num_inference_steps)


def _combine(terms: Terms, history: list[Tensor]) -> Tensor:
    """Sum ``coefficient * history[index]``, with one kernel a term."""
    first, factor = terms[0]
    if len(terms) == 1:
        return history[first] if factor == 1.0 else history[first] * factor
    index, coefficient = terms[1]
    if factor == 1.0:
        total = torch.add(history[first], history[index], alpha=coefficient)
    else:
        total = (history[first] * factor).add_(history[index], alpha=coefficient)
    for index, coefficient in terms[2:]:
        total.add_(history[index], alpha=coefficient)
    return total


def _scale_input(scheduler: Any, sample: Tensor, timestep: Tensor) -> Tensor:
    scale = getattr(scheduler, "scale_model_input", None)
    return sample if scale is None else scale(sample, timestep)


def _run(scheduler: Any, num_inference_steps: int, noise: Tensor, model: Model) -> Tensor:
    """Sample as diffusers' pipelines do."""
    scheduler.set_timesteps(num_inference_steps)
    sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for index, timestep in enumerate(scheduler.timesteps):
        output = model(_scale_input(scheduler, sample, timestep), index)
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
    return sample.to(noise.dtype)


def _random_run(
    scheduler: Any, num_inference_steps: int, calls: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample with stand-in outputs; returns the noise, the outputs and the sample."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 2, 16, dtype=torch.float64)[:, None, None]
    noise = torch.randn(16, 4, 2, generator=generator, dtype=torch.float64) * scale
    outputs = torch.randn(calls, 16, 4, 2, generator=generator, dtype=torch.float64) * scale
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = _run(scheduler, num_inference_steps, noise, lambda _, index: outputs[index])
    return noise, outputs, result


def _check_deterministic(scheduler: Any, first: Tensor, second: Tensor) -> None:
    name = type(scheduler).__name__
    if not bool(torch.isfinite(first).all()):
        raise ConfigurationError(
            f"{name} returns a non-finite sample for finite noise; with a signal-to-noise ratio of "
            "zero at the last training step, predict 'sample' or 'v_prediction', not 'epsilon'"
        )
    if torch.allclose(first, second, rtol=1e-5, atol=1e-6):
        return
    if hasattr(scheduler, "alphas_cumprod"):
        fix = "DDIMScheduler.from_config(scheduler.config)"
    else:
        fix = "FlowMatchEulerDiscreteScheduler(stochastic_sampling=False)"
    raise StochasticSamplerError(
        f"{name} draws random numbers in its steps, so the initial noise alone does not decide the "
        f"action and cannot steer it; use a deterministic sampler: {fix}"
    )


def _probe(scheduler: Any, num_inference_steps: int, timesteps: Tensor) -> AffineSchedule | None:
    """Find the coefficients by one run on unit vectors; None if the input is not merely scaled."""
    calls = len(timesteps)
    scheduler.set_timesteps(num_inference_steps)
    start = float(getattr(scheduler, "init_noise_sigma", 1.0))
    # Unit vector 2j stands for the sample before call j, 2j + 1 for the output of call j.
    basis = torch.eye(2 * calls, dtype=torch.float64)[:, None, None, :]
    scales, rows = [], []
    for index, timestep in enumerate(scheduler.timesteps):
        sample = basis[2 * index]
        shown = _scale_input(scheduler, sample, timestep)
        scales.append(float(shown[..., 2 * index]))
        if scales[-1] == 0.0 or not torch.equal(shown, sample * scales[-1]):
            return None
        result = scheduler.step(basis[2 * index + 1], timestep, sample, return_dict=False)[0]
        rows.append(result.flatten().double())
    return _coefficients(timesteps, start, scales, torch.stack(rows))


def _coefficients(
    timesteps: Tensor, start: float, scales: list[float], rows: Tensor
) -> AffineSchedule:
    """Express the steps in the denoiser's inputs and choose, for each, its shorter form."""
    calls = len(scales)
    scale = torch.tensor([*scales, 1.0], dtype=torch.float64)
    local = rows * scale[1:, None]
    local[:, 0::2] /= scale[:-1]
    # The same in the first input and the outputs alone: substitute the earlier rows.
    known = torch.eye(2 * calls, dtype=torch.float64)
    composed = []
    for index in range(calls):
        row = local[index] @ known
        composed.append(row)
        if index + 1 < calls:
            known[2 * index + 2] = row
    steps = (min(_terms(a), _terms(b), key=len) for a, b in zip(local, composed, strict=True))
    return AffineSchedule(timesteps, start * scales[0], tuple(steps))


def _terms(row: Tensor) -> Terms:
    """Drop what is zero to rounding."""
    kept = (row.abs() > 1e-9 * row.abs().max()).nonzero().flatten().tolist()
    return tuple((index, float(row[index])) for index in kept)


def _reproduces(schedule: AffineSchedule, noise: Tensor, outputs: Tensor, result: Tensor) -> bool:
    """Whether the coefficients give the scheduler's own result for the same outputs."""
    mine = schedule.integrate(noise, lambda _, index: outputs[index])
    error = (mine - result).abs().flatten(1).amax(1)
    size = torch.stack([noise, result]).abs().flatten(2).amax((0, 2))
    return bool((error <= 1e-4 * size).all())
