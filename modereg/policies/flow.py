"""A flow-matching policy in pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.policies.denoising import Denoising
from modereg.policies.generative import GenerativePolicy, cast, uniform_dtype

__all__ = ["FlowPolicy"]

TimeConvention = Literal["noise_at_0", "noise_at_1"]


class FlowPolicy(GenerativePolicy):
    r"""A flow-matching policy in pure torch: Euler steps of a velocity field.

    With noise w and action a, the path is :math:`x = (1 - \tau) w + \tau a` for a progress
    :math:`\tau` that runs from 0 to 1. Libraries differ in the time t that the network is told and
    in the sign of its output:

    - ``"noise_at_0"`` (the flow_matching library, TorchRL): :math:`t = \tau`, the network returns
      :math:`dx/dt = a - w`.
    - ``"noise_at_1"`` (diffusers, PI0): :math:`t = 1 - \tau`, the network returns
      :math:`dx/dt = w - a`.

    Args:
        velocity: module called as ``velocity(x [*B, H, A], t [*B], *observations) -> [*B, H, A]``.
        observation_keys: entries that the velocity reads after x and t.
        chunk_shape: ``(H, A)``; the noise has the same shape.
        time_convention: see above; there is no default because both are common.
        num_steps: Euler steps.
        observation_shapes: see :class:`GenerativePolicy`.
        autocast: see :class:`GenerativePolicy`.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Reference: Lipman et al., Flow Matching for Generative Modeling, arXiv 2210.02747.
    """

    learns_shapes = True

    def __init__(
        self,
        velocity: nn.Module,
        *,
        observation_keys: Sequence[NestedKey],
        chunk_shape: Sequence[int],
        time_convention: TimeConvention,
        num_steps: int = 8,
        observation_shapes: Sequence[Sequence[int] | None] | None = None,
        autocast: torch.dtype | None = None,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        if time_convention not in ("noise_at_0", "noise_at_1"):
            raise ConfigurationError(
                "expected time_convention 'noise_at_0' or 'noise_at_1', got "
                f"{time_convention!r}; the docstring says which library uses which"
            )
        if num_steps < 1:
            raise ConfigurationError(f"expected at least one Euler step, got {num_steps}")
        super().__init__(
            observation_keys=observation_keys,
            noise_shape=chunk_shape,
            chunk_shape=chunk_shape,
            observation_shapes=observation_shapes,
            autocast=autocast,
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        self.velocity, self.num_steps, self.time_convention = velocity, num_steps, time_convention

    def configuration(self) -> dict[str, Any]:
        """Add the Euler steps and the time convention."""
        own = {"num_steps": self.num_steps, "time_convention": self.time_convention}
        return super().configuration() | own

    def _field(self, x: Tensor, progress: Tensor, observations: tuple[Any, ...]) -> Tensor:
        """Return dx/dtau = a - w, whatever the convention, at a progress ``[*B]``.

        The velocity is given what it reads in the type of its weights, where they have one type.
        """
        given = (x, progress if self.time_convention == "noise_at_0" else 1.0 - progress)
        dtype = uniform_dtype(self.velocity)
        field = self.velocity(*cast((*given, *observations), dtype)).to(x.dtype)
        return field if self.time_convention == "noise_at_0" else -field

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Integrate the velocity field from the noise to the chunk by Euler steps."""
        x, batch = noise, noise.shape[: -len(self.noise_shape)]
        for step in range(self.num_steps):
            progress = noise.new_full(batch, step / self.num_steps)
            x = x + self._field(x, progress, observations) / self.num_steps
        return x

    def denoising(self, scale: float) -> Denoising:
        """Return the Euler steps, with noise that keeps the flow's marginals.

        See :func:`~modereg.functional.flow_step`.

        Args:
            scale: sigma of it.
        """
        times = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        return Denoising.of_flow(self._step_field, times, scale)

    def _step_field(self, x: Tensor, step: Tensor, *observations: Any) -> Tensor:
        """Return dx/dtau at the times of steps ``[N]``."""
        return self._field(x, step.to(x.dtype) / self.num_steps, observations)

    def cloning_loss(self, chunk: Tensor, *observations: Any) -> Tensor:
        r"""Flow-matching loss: E || v(x_tau) - (a - w) ||^2, tau uniform in [0, 1].

        Args:
            chunk: demonstrated chunks, ``[*B, H, A]``.
            observations: one value for each of ``observation_keys``.

        Returns:
            A scalar.

        Raises:
            ShapeError: if an observation has another shape than ``observation_shapes`` names.
        """
        self.check_observations(observations, chunk.shape[:-2])
        noise = torch.randn_like(chunk)
        progress = torch.rand(chunk.shape[:-2], dtype=chunk.dtype, device=chunk.device)
        mix = progress[..., None, None]
        field = self._field((1 - mix) * noise + mix * chunk, progress, observations)
        return (field - (chunk - noise)).square().mean()
