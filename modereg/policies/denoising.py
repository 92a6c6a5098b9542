"""A decode taken apart: the steps that lead from noise to a chunk, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modereg import functional

__all__ = ["Clipping", "Denoising", "NoisePath"]

STEEPEST = 20.0
"""Largest change of a velocity by that of a network's output in :attr:`NoisePath.rates`."""


class NoisePath(NamedTuple):
    r"""What the steps stand for: :math:`x_k = \alpha_k a + \sigma_k w` leads from noise to a chunk.

    Divided by :math:`\alpha_k + \sigma_k` it is the straight path of a flow, whatever the schedule,
    at the time :math:`t_k = \alpha_k / (\alpha_k + \sigma_k)`. What the network takes for a is
    :math:`\hat a = P x + Q m`, and what it takes for the velocity :math:`a - w` of that path
    :math:`\hat v = (\hat a - x_k / (\alpha_k + \sigma_k)) / (1 - t_k)`; so, at one x,

    .. math:: \hat v - (a - w) = \frac{\hat a - a}{1 - t_k}.

    Attributes:
        signal: alpha, ``[K]``.
        noise: sigma, ``[K]``, positive.
        sample: P, ``[K]``.
        output: Q, ``[K]``.
    """

    signal: Tensor
    noise: Tensor
    sample: Tensor
    output: Tensor

    @property
    def times(self) -> Tensor:
        """The times t of the steps, ``[K]``, 0 for noise and 1 for the chunk."""
        return self.signal / (self.signal + self.noise)

    @property
    def rates(self) -> Tensor:
        r"""By what a difference of :math:`\hat a` is one of velocities, ``[K]``: 1 / (1 - t).

        Less where an error of m would become more than 20 times as large: near t = 0 for a network
        that predicts the noise, which says nothing of a there, and near 1 for one that predicts a.
        """
        return torch.minimum(1.0 / (1.0 - self.times), STEEPEST / self.output.abs())

    def mixed(self, sample: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """Return x_k of x_K and noise, ``[N, H, A]`` all, at the steps ``[N]``."""
        return at(self.signal, step, sample) * sample + at(self.noise, step, sample) * noise


class Clipping(NamedTuple):
    r"""Of a sampler that clips: :math:`G\,\mathrm{clip}(\hat a)` is added to the mean.

    Attributes:
        bound: :math:`\hat a` is clipped to [-bound, bound].
        weight: G, ``[K]``.
    """

    bound: float
    weight: Tensor


class Denoising(NamedTuple):
    r"""K steps :math:`x_{k+1} \sim N(A_k x_k + B_k m_k, \sigma_k^2 I)` from x_0, the noise.

    m is what a network returns at step k. Whoever draws a step and whoever asks how likely it was
    take mean and standard deviation from here, at the same times and with the same coefficients.

    Attributes:
        model: ``model(x [N, H, A], k [N] int64, *observations [N, ...]) -> m [N, H, A]``; a
            function or a bound method, so that a copy of its policy has one of its own.
        keep: A, ``[K]``.
        gain: B, ``[K]``.
        std: sigma, ``[K]``; zeros are a deterministic sampler.
        path: what the steps stand for.
        units: from x_K to the chunk, ``[N, H, A]`` both, and back; None where they are the same.
        clipping: of a sampler that clips.
    """

    model: Callable[..., Tensor]
    keep: Tensor
    gain: Tensor
    std: Tensor
    path: NoisePath
    units: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None
    clipping: Clipping | None = None

    @classmethod
    def of_flow(
        cls, model: Callable[..., Tensor], times: Tensor, scale: float, sign: float = 1.0
    ) -> Denoising:
        """Return Euler steps of a flow, with the noise of :func:`~modereg.functional.flow_step`.

        Args:
            model: see above; it returns the velocity a - w, times ``sign``.
            times: see there.
            scale: see there.
            sign: 1, or -1 for a model of w - a.
        """
        keep, gain, std = functional.flow_step(times, scale)
        start, left = times[:-1], 1.0 - times[:-1]
        path = NoisePath(start, left, torch.ones_like(left), sign * left)
        return cls(model, keep, sign * gain, std, path)

    def mean(self, sample: Tensor, step: Tensor, *observations: Tensor) -> Tensor:
        """Return the mean of the next x, ``[N, H, A]``.

        Args:
            sample: x, ``[N, H, A]``.
            step: k of each row, ``[N]`` int64.
            observations: ``[N, ...]`` each.
        """
        output = self.model(sample, step, *observations)
        mean = at(self.keep, step, sample) * sample + at(self.gain, step, sample) * output
        if self.clipping is not None:
            bound, weight = self.clipping
            clipped = self._data(sample, output, step).clamp(-bound, bound)
            mean = mean + at(weight, step, sample) * clipped
        return mean

    def predicted(self, sample: Tensor, step: Tensor, *observations: Tensor) -> Tensor:
        r"""Return :math:`\hat a`, what the network takes for x_K, ``[N, H, A]``, not clipped.

        The arguments are those of :meth:`mean`.
        """
        return self._data(sample, self.model(sample, step, *observations), step)

    def _data(self, sample: Tensor, output: Tensor, step: Tensor) -> Tensor:
        path = self.path
        return at(path.sample, step, sample) * sample + at(path.output, step, sample) * output

    def chunk(self, sample: Tensor) -> Tensor:
        """Return the chunk of x_K, ``[N, H, A]`` both."""
        return sample if self.units is None else self.units[0](sample)

    def normalised(self, chunk: Tensor) -> Tensor:
        """Return x_K of the chunk, ``[N, H, A]`` both."""
        return chunk if self.units is None else self.units[1](chunk)


def at(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """Return the entries ``[N, 1, 1]`` of a table ``[K]``, in the type of chunks ``[N, H, A]``."""
    return table.to(like.device, like.dtype)[step][:, None, None]
