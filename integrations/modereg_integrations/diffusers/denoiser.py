"""A small denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from modereg.errors import ConfigurationError, ShapeError

__all__ = ["MLPDenoiser"]


class MLPDenoiser(ModelMixin, ConfigMixin):
    """A multilayer perceptron on the flattened chunk and the observations, modulated by time.

    Time scales and shifts each hidden layer (Perez et al., FiLM, arXiv 1709.07871) and sets the
    gain of a path from the noisy chunk to the output, which a narrow network passes on badly. Both
    are the same for a whole batch of a decode, and what observations add to the first layer is the
    same at all its steps: :meth:`embed_times` and :meth:`condition` compute each once.

    Args:
        action_dim: length A of an action.
        horizon: actions H in a chunk.
        observation_dims: flattened length of each observation, its history included; they are
            concatenated.
        hidden: widths of the hidden layers.
        num_train_timesteps: the time step that stands for pure noise.
        time_features: length of the sinusoidal time embedding.
        observation_octaves: number of octaves of sines and cosines of the observations that are
            given beside them, at frequencies pi/2 * 2^i of normalised units; 0 for none.

    Raises:
        ConfigurationError: if there is no hidden layer or ``time_features`` is odd.
    """

    @register_to_config
    def __init__(
        self,
        action_dim: int,
        horizon: int,
        observation_dims: Sequence[int] = (),
        hidden: Sequence[int] = (512, 512, 512),
        num_train_timesteps: int = 128,
        time_features: int = 32,
        observation_octaves: int = 0,
    ) -> None:
        super().__init__()
        if not hidden or time_features % 2:
            raise ConfigurationError(
                f"expected at least one hidden layer and an even time_features, got {hidden} and "
                f"{time_features}"
            )
        chunk, observed = horizon * action_dim, sum(observation_dims)
        widths = [chunk, *hidden]
        self.layers = nn.ModuleList(
            nn.Linear(before, after, bias=False)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.observation_layer = (
            nn.Linear(observed * (1 + 2 * observation_octaves), hidden[0], bias=False)
            if observed
            else None
        )
        self.output_layer = nn.Linear(hidden[-1], chunk)
        # For each hidden layer its shift, then for each its gain, then the gain of the skip.
        self._sizes = [*hidden, *hidden, 1]
        self.time_layer = nn.Linear(time_features, sum(self._sizes))
        with torch.no_grad():
            self.time_layer.weight[sum(hidden) :] = 0
            self.time_layer.bias[sum(hidden) : -1] = 1
            self.time_layer.bias[-1] = 0

    def forward(self, sample: Tensor, timestep: Tensor | float, *observations: Tensor) -> Tensor:
        """Predict what the scheduler's ``prediction_type`` names.

        Args:
            sample: noisy chunks, ``[B, H, A]``.
            timestep: scalar or ``[B]``.
            observations: ``[B, ...]`` each.

        Returns:
            ``[B, H, A]``.
        """
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        return self.denoise(sample, self.embed_times(times), self.condition(*observations))

    def condition(self, *observations: Tensor) -> Tensor | None:
        """Return what the observations add to the first layer, ``[B, hidden[0]]``."""
        if self.observation_layer is None:
            return None
        features = torch.cat([value.flatten(1) for value in observations], -1)
        expected = sum(self.config.observation_dims)
        if features.shape[-1] != expected:
            raise ShapeError(
                f"expected observations of {expected} numbers in all (observation_dims "
                f"{list(self.config.observation_dims)}), got {features.shape[-1]}"
            )
        if self.config.observation_octaves:
            octaves = torch.arange(self.config.observation_octaves, device=features.device)
            frequencies = (math.pi / 2 * 2.0**octaves).to(features.dtype)
            angles = (features.unsqueeze(-1) * frequencies).flatten(1)
            features = torch.cat([features, angles.sin(), angles.cos()], -1)
        return self.observation_layer(features)

    def embed_times(self, timesteps: Tensor) -> Tensor:
        """Return shifts and gains of time steps ``[S]``, ``[S, 2 * sum(hidden) + 1]``."""
        half = self.config.time_features // 2
        exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
        scaled = timesteps.float() * (1000.0 / self.config.num_train_timesteps)
        angles = scaled[:, None] * torch.exp(-math.log(10_000.0) * exponents)
        features = torch.cat([angles.sin(), angles.cos()], -1)
        return self.time_layer(features.to(self.time_layer.weight.dtype))

    def denoise(self, sample: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        """Denoise ``[B, H, A]`` given rows of :meth:`embed_times` and :meth:`condition`."""
        *modulation, skip = time.split(self._sizes, -1)
        depth = len(self.layers)
        flat = hidden = sample.flatten(1)
        for index, layer in enumerate(self.layers):
            shift = modulation[index]
            if index == 0 and condition is not None:
                shift = shift + condition
            hidden = torch.addcmul(shift, layer(hidden), modulation[depth + index])
            hidden = functional.silu(hidden, inplace=not hidden.requires_grad)
        return torch.addcmul(self.output_layer(hidden), flat, skip).view_as(sample)
