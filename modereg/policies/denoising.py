"""A decode taken apart: the steps that lead from noise to a chunk, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Clipping", "Denoising"]


class Clipping(NamedTuple):
    r"""Of a sampler that clips: :math:`G\,\mathrm{clip}(P x + Q m)` is added to the mean.

    Attributes:
        bound: what is clipped to [-bound, bound].
        sample: P, ``[K]``.
        output: Q, ``[K]``.
        weight: G, ``[K]``.
    """

    bound: float
    sample: Tensor
    output: Tensor
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
        finish: from x_K to the chunk, ``[N, H, A]`` both; None where they are the same.
        clipping: of a sampler that clips.
    """

    model: Callable[..., Tensor]
    keep: Tensor
    gain: Tensor
    std: Tensor
    finish: Callable[[Tensor], Tensor] | None = None
    clipping: Clipping | None = None

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
            bound, *rest = self.clipping
            p, q, weight = (at(table, step, sample) for table in rest)
            mean = mean + weight * (p * sample + q * output).clamp(-bound, bound)
        return mean

    def chunk(self, sample: Tensor) -> Tensor:
        """Return the chunk of x_K, ``[N, H, A]`` both."""
        return sample if self.finish is None else self.finish(sample)


def at(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """Return the entries ``[N, 1, 1]`` of a table ``[K]``, in the type of chunks ``[N, H, A]``."""
    return table.to(like.device, like.dtype)[step][:, None, None]
