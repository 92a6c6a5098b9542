r"""The sampling loop of a diffusers scheduler, reduced to the numbers that it applies.

A deterministic sampler without clipping is linear in the noise and the denoiser's outputs. With
:math:`u_i` what the denoiser is shown at step i and :math:`m_i` what it returns,

.. math:: u_0 = k w, \qquad u_{i+1} = \sum_{j \le i} c_{ij} u_j + d_{ij} m_j, \qquad u_S = a,

for coefficients that depend on the scheduler alone. They are found by running the scheduler once on
unit vectors, whatever its algorithm; a random run then tells whether they reproduce it. One that
clips is linear but for the clipping (see :mod:`.clipping`); one that thresholds is not, and keeps
its own ``step``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, StochasticSamplerError
from modereg_integrations.diffusers.clipping import (
    ClippedSchedule,
    Terms,
    combine,
    nonzero_terms,
    probe_clipped,
)

__all__ = ["AffineSchedule", "Schedule", "SteppedSchedule", "make_schedule", "spacing_of"]

Model = Callable[[Tensor, int], Tensor]
"""Denoiser bound to its observations: ``model(sample [N, H, A], step) -> [N, H, A]``."""


@dataclass(frozen=True)
class AffineSchedule:
    """Precomputed coefficients of a sampling loop.

    Attributes:
        timesteps: ``[S]`` on the CPU, what the denoiser is told at each of its S calls.
        start: factor of the noise, k.
        steps: for each call the terms of the denoiser's next input, or of the result; index 2j
            stands for u_j, 2j + 1 for m_j.
    """

    timesteps: Tensor
    start: float
    steps: tuple[Terms, ...]

    def integrate(self, noise: Tensor, model: Model) -> Tensor:
        """Run the loop from noise ``[N, H, A]`` to the sample ``[N, H, A]``."""
        history = [noise if self.start == 1.0 else noise * self.start]
        for index, terms in enumerate(self.steps):
            history.append(model(history[-1], index))
            history.append(combine(terms, history))
        return history[-1]


@dataclass(frozen=True)
class SteppedSchedule:
    """A sampling loop that calls the scheduler's own ``step``.

    Attributes:
        timesteps: ``[S]`` on the CPU, what the denoiser is told at each of its S calls.
        scheduler: a scheduler that nobody else uses, for it keeps state between steps.
        spacing: what ``set_timesteps`` is given before each loop.
    """

    timesteps: Tensor
    scheduler: Any
    spacing: Mapping[str, Any]

    def integrate(self, noise: Tensor, model: Model) -> Tensor:
        """Run the loop from noise ``[N, H, A]`` to the sample ``[N, H, A]``."""
        return _run(self.scheduler, self.spacing, noise, model)


Schedule = AffineSchedule | ClippedSchedule | SteppedSchedule


def make_schedule(
    scheduler: Any,
    num_inference_steps: int,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """Probe a scheduler: is it deterministic, and is it linear?

    Args:
        scheduler: any scheduler of diffusers; it is copied, not changed.
        num_inference_steps: given to its ``set_timesteps``.
        timesteps: given to it instead.
        sigmas: given to it instead, or with ``timesteps``.

    Raises:
        StochasticSamplerError: if it draws random numbers in its steps.
        ConfigurationError: if it can't be run so, returns a non-finite sample, or carries time
            steps that were set by hand and would be replaced.
    """
    name = type(scheduler).__name__
    spacing = spacing_of(num_inference_steps, timesteps, sigmas)
    if timesteps is None and sigmas is None:
        _check_not_set_by_hand(scheduler)
    scheduler = copy.deepcopy(scheduler)
    try:
        scheduler.set_timesteps(**spacing)
        stepped = SteppedSchedule(scheduler.timesteps.clone(), scheduler, spacing)
        reference, again = (_trajectory(stepped, seed=seed) for seed in (0, 1))
    except Exception as error:  # of diffusers, which raises whatever its code runs into
        asked = ", ".join(f"{key}={value}" for key, value in spacing.items())
        raise ConfigurationError(
            f"{name} refuses {asked} with prediction_type="
            f"{scheduler.config.get('prediction_type')!r}: {' '.join(str(error).split())}; it must "
            "run by set_timesteps and step(output, timestep, sample) alone, as DDIMScheduler does"
        ) from error
    _check_deterministic(scheduler, reference, again)
    for probe in (_probe, probe_clipped):
        schedule = probe(scheduler, spacing)
        if schedule is not None and _agree(_trajectory(schedule, seed=0), reference, 1e-4):
            return schedule
    return stepped


def spacing_of(
    num_inference_steps: int,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
) -> dict[str, Any]:
    """Return what ``set_timesteps`` is given.

    Raises:
        ConfigurationError: if there is no step.
    """
    if num_inference_steps < 1:
        raise ConfigurationError(
            f"expected num_inference_steps of at least 1, got {num_inference_steps!r}"
        )
    given = {"timesteps": timesteps, "sigmas": sigmas}
    by_hand = {name: list(values) for name, values in given.items() if values is not None}
    return by_hand or {"num_inference_steps": num_inference_steps}


def _check_not_set_by_hand(scheduler: Any) -> None:
    """Refuse a scheduler whose time steps are neither fresh nor what a number of steps gives."""
    fresh = type(scheduler).from_config(scheduler.config)
    number = getattr(scheduler, "num_inference_steps", None)
    if _same_times(scheduler, fresh) or number is None:
        return
    try:
        fresh.set_timesteps(number)
    except Exception:  # a number that it does not take was not given to it
        same = False
    else:
        same = _same_times(scheduler, fresh)
    if not same:
        times = [round(float(time), 3) for time in scheduler.timesteps]
        raise ConfigurationError(
            f"expected a scheduler as its configuration makes it, got {type(scheduler).__name__} "
            f"with the time steps {times} set by hand, which a copy would not keep; pass what its "
            "set_timesteps was given: timesteps=[...] or sigmas=[...]"
        )


def _same_times(first: Any, second: Any) -> bool:
    for name in ("timesteps", "sigmas"):
        values = [getattr(each, name, None) for each in (first, second)]
        one, other = (torch.as_tensor([] if v is None else v).double().cpu() for v in values)
        if one.shape != other.shape or not torch.allclose(one, other):
            return False
    return True


def _begin(scheduler: Any, spacing: Mapping[str, Any]) -> None:
    scheduler.set_timesteps(**spacing)
    if hasattr(scheduler, "set_begin_index"):
        # Else the start is looked up by its time step, which need not be unique.
        scheduler.set_begin_index(0)


def _scale_input(scheduler: Any, sample: Tensor, timestep: Tensor) -> Tensor:
    scale = getattr(scheduler, "scale_model_input", None)
    return sample if scale is None else scale(sample, timestep)


def _run(scheduler: Any, spacing: Mapping[str, Any], noise: Tensor, model: Model) -> Tensor:
    """Sample as diffusers' pipelines do."""
    _begin(scheduler, spacing)
    sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for index, timestep in enumerate(scheduler.timesteps):
        output = model(_scale_input(scheduler, sample, timestep), index)
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
    return sample.to(noise.dtype)


def _trajectory(schedule: Schedule, seed: int) -> Tensor:
    """Sample with stand-in outputs; returns each call's input and the sample, ``[S+1, 16, 4, 2]``.

    Magnitudes go from below to far above 1, so that clipping shows, in float64.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 2, 16, dtype=torch.float64)[:, None, None]
    shape = (len(schedule.timesteps) + 1, 16, 4, 2)
    noise, *outputs = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    inputs = []

    def model(sample: Tensor, step: int) -> Tensor:
        inputs.append(sample.double())
        return outputs[step]

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = schedule.integrate(noise, model)
    return torch.stack([*inputs, result])


def _agree(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether trajectories agree, relative to the largest entry of each sample of each step."""
    error = (first - second).abs().flatten(2).amax(-1)
    return bool((error <= tolerance * second.abs().flatten(2).amax(-1).clamp(min=0.1)).all())


def _check_deterministic(scheduler: Any, first: Tensor, second: Tensor) -> None:
    name = type(scheduler).__name__
    if not bool(torch.isfinite(first).all()):
        raise ConfigurationError(
            f"{name} returns a non-finite sample for finite noise; look at its options: with a "
            "signal-to-noise ratio of zero at the last training step, predict 'sample' or "
            "'v_prediction', not 'epsilon'"
        )
    if _agree(first, second, 1e-5):
        return
    if hasattr(scheduler, "alphas_cumprod"):
        fix = "DDIMScheduler.from_config(scheduler.config)"
    else:
        fix = "FlowMatchEulerDiscreteScheduler(stochastic_sampling=False)"
    raise StochasticSamplerError(
        f"{name} draws random numbers in its steps, so the initial noise alone does not decide the "
        f"action and cannot steer it; use a deterministic sampler: {fix}"
    )


def _probe(scheduler: Any, spacing: Mapping[str, Any]) -> AffineSchedule | None:
    """Find the coefficients by one run on unit vectors; None if the form does not fit."""
    _begin(scheduler, spacing)
    start = float(getattr(scheduler, "init_noise_sigma", 1.0))
    # Unit vector 2j stands for the sample before call j, 2j + 1 for the output of call j.
    basis = torch.eye(2 * len(scheduler.timesteps), dtype=torch.float64)[:, None, None, :]
    scales, rows = [], []
    for index, timestep in enumerate(scheduler.timesteps):
        sample = basis[2 * index : 2 * index + 1, 0]
        shown = _scale_input(scheduler, sample, timestep)
        scales.append(float(shown[..., 2 * index]))
        if scales[-1] == 0.0 or not torch.equal(shown, sample * scales[-1]):
            return None
        output = basis[2 * index + 1 : 2 * index + 2, 0]
        result = scheduler.step(output, timestep, sample, return_dict=False)[0]
        rows.append(result.flatten().double())
    steps = _coefficients(scales, torch.stack(rows))
    if not all(steps):
        return None
    return AffineSchedule(scheduler.timesteps.clone(), start * scales[0], steps)


def _coefficients(scales: list[float], rows: Tensor) -> tuple[Terms, ...]:
    """Express the steps in the denoiser's inputs and choose, for each, its shorter form."""
    calls = len(scales)
    scale = torch.tensor([*scales, 1.0], dtype=torch.float64)
    local = rows * scale[1:, None]
    local[:, 0::2] /= scale[:-1]
    # The same in the first input and the outputs alone: substitute the earlier rows.
    known = torch.eye(2 * calls, dtype=torch.float64)
    composed = []
    for index in range(calls):
        composed.append(local[index] @ known)
        if index + 1 < calls:
            known[2 * index + 2] = composed[-1]
    pairs = zip(local.tolist(), (row.tolist() for row in composed), strict=True)
    return tuple(min(nonzero_terms(a), nonzero_terms(b), key=len) for a, b in pairs)
