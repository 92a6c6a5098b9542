r"""The sampling loop of DDIM where it clips the predicted sample.

With u what the denoiser is shown and m what it returns, the predicted sample is
:math:`x_0 = P u + Q m` and the next input :math:`u' = A u + B m + G\,\mathrm{clip}(x_0)`
(Song et al., arXiv 2010.02502, equation 12). The five coefficients of a step are found by running
the scheduler's own step with and without clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, add

__all__ = ["ClippedSchedule", "Terms", "combine", "nonzero_terms", "probe_clipped", "probe_step"]

Terms = tuple[tuple[int, float], ...]
"""A linear combination: pairs of an index and its coefficient."""


def nonzero_terms(row: Sequence[float]) -> Terms:
    """Return the terms of a row of coefficients without those that are zero to rounding."""
    smallest = 1e-9 * max(map(abs, row))
    return tuple((index, value) for index, value in enumerate(row) if abs(value) > smallest)


def combine(terms: Terms, values: Sequence[Tensor]) -> Tensor:
    """Sum ``coefficient * values[index]`` over one term or more, with one kernel a term."""
    first, factor = terms[0]
    if len(terms) == 1:
        return values[first] if factor == 1.0 else values[first] * factor
    index, coefficient = terms[1]
    if factor == 1.0:
        total = add(values[first], values[index], alpha=coefficient)
    else:
        total = (values[first] * factor).add_(values[index], alpha=coefficient)
    for index, coefficient in terms[2:]:
        total.add_(values[index], alpha=coefficient)
    return total


@dataclass(frozen=True)
class ClippedSchedule:
    """Precomputed coefficients of a loop that clips.

    Attributes:
        timesteps: ``[S]`` on the CPU, what the denoiser is told at each of its S calls.
        bound: the predicted sample is clipped to [-bound, bound].
        steps: for each call the terms of the predicted sample, in (u, m), and those of the next
            input, in (u, m, clipped).
    """

    timesteps: Tensor
    bound: float
    steps: tuple[tuple[Terms, Terms], ...]

    def integrate(self, noise: Tensor, model: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Run the loop from noise ``[N, H, A]`` to the sample ``[N, H, A]``."""
        sample = noise
        for index, (predict, update) in enumerate(self.steps):
            known = (sample, model(sample, index))
            clipped = combine(predict, known).clamp(-self.bound, self.bound)
            sample = combine(update, (*known, clipped))
        return sample


def probe_clipped(scheduler: Any, spacing: Mapping[str, Any]) -> ClippedSchedule | None:
    """Find the coefficients; None if the scheduler does not clip in this way."""
    config = scheduler.config
    if not config.get("clip_sample") or config.get("thresholding"):
        return None
    if getattr(scheduler, "init_noise_sigma", 1.0) != 1.0:
        return None
    free = type(scheduler).from_config(config, clip_sample=False)
    for each in (scheduler, free):
        each.set_timesteps(**spacing)
    bound = float(config["clip_sample_range"])
    steps = tuple(probe_step(scheduler, free, t, bound) for t in scheduler.timesteps)
    return ClippedSchedule(scheduler.timesteps.clone(), bound, steps)


def probe_step(
    scheduler: Any, free: Any, timestep: Tensor, bound: float, **options: Any
) -> tuple[Terms, Terms]:
    """Return the terms of the predicted sample and of the next input, in one step that clips.

    Args:
        scheduler: clips.
        free: the same, without.
        timestep: of the step.
        bound: clipped to [-bound, bound].
        **options: of ``step``.
    """
    unit = torch.eye(2, dtype=torch.float64)[:, None, None, :]
    result, predicted = free.step(unit[1], timestep, unit[0], return_dict=False, **options)[:2]
    (a, b), (p, q) = result.flatten().tolist(), predicted.flatten().tolist()
    # Far outside the bound, the step falls short by G times what is cut off.
    sample = torch.full((1, 1, 1), 1e3 * bound * p, dtype=torch.float64)
    output = torch.full((1, 1, 1), 1e3 * bound * q, dtype=torch.float64)
    cut = 1e3 * bound * (p * p + q * q) - bound
    clipped = scheduler.step(output, timestep, sample, return_dict=False, **options)[0]
    g = float(a * sample + b * output - clipped) / cut
    # a = A + G P and b = B + G Q; what is left of them to rounding is nothing.
    rest = [value if abs(value) > 1e-7 * abs(g) else 0.0 for value in (a - g * p, b - g * q)]
    return nonzero_terms((p, q)), nonzero_terms((*rest, g))
