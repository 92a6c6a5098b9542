"""Diffusion and flow-matching policies made of a denoiser and a scheduler of diffusers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.policies import GenerativePolicy
from modereg_integrations.diffusers.cloning import corrupt, fresh_scheduler
from modereg_integrations.diffusers.denoiser import MLPDenoiser, bind_denoiser, call_denoiser
from modereg_integrations.diffusers.normalizer import Mode, Normalizer
from modereg_integrations.diffusers.schedule import make_schedule

__all__ = ["DiffusersPolicy"]

_BLOCK = 1024
"""Rows decoded at once on a CPU: more fall out of its cache, which costs 15 to 25 %."""


class DiffusersPolicy(GenerativePolicy):
    """A denoiser sampled by a deterministic scheduler of diffusers.

    The decode gives, to float precision, what diffusers' own loop gives: ``set_timesteps``, then
    for each time step ``scale_model_input``, the denoiser and ``step``, from the noise times
    ``init_noise_sigma``. Where the loop is linear in noise and outputs, its coefficients are
    computed once, at construction; where the scheduler clips or thresholds, its own ``step`` runs.
    The denoiser works in normalised units, observations and chunks of this class are physical.

    Args:
        denoiser: called as ``denoiser(sample [B, H, A], timestep, *observations)``, with a scalar
            time step here and ``[B]`` in training; returns ``[B, H, A]`` or an object whose
            ``sample`` is that. A ``UNet1DModel`` is called channels first, with the observations
            as further constant channels. What does not change within a decode is computed once if
            it offers ``condition``, ``embed_times`` and ``denoise`` (see
            :func:`~modereg_integrations.diffusers.denoiser.bind_denoiser`).
        scheduler: any scheduler of diffusers that is a deterministic function of its initial noise;
            it is copied.
        chunk_shape: ``(H, A)``; the noise has the same shape.
        observation_keys: entries given to the denoiser, in its order.
        num_inference_steps: given to the scheduler's ``set_timesteps``.
        normalizer: maps between physical and normalised units; None where the denoiser works in
            physical units.
        observation_steps: length of the observation history. Above 1, observations are
            ``[*B, observation_steps, ...]``, the newest last.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        StochasticSamplerError: if the scheduler draws random numbers; the sentence has the fix.
        ConfigurationError: if the scheduler cannot make that many steps, or the normalizer is of
            another number of observations or action dimensions.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        *,
        chunk_shape: Sequence[int],
        observation_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        num_inference_steps: int = 8,
        normalizer: Normalizer | None = None,
        observation_steps: int = 1,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        super().__init__(
            observation_keys=observation_keys,
            noise_shape=chunk_shape,
            chunk_shape=chunk_shape,
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        _check_normalizer(normalizer, len(self.observation_keys), self.chunk_shape[1])
        self.denoiser = denoiser
        self.scheduler = copy.deepcopy(scheduler)
        self.num_inference_steps = num_inference_steps
        self.observation_steps = observation_steps
        self.normalizer = normalizer
        self.schedule = make_schedule(scheduler, num_inference_steps)

    def decode(self, noise: Tensor, *observations: Tensor) -> Tensor:
        """Sample a chunk from noise.

        Args:
            noise: ``[*B, H, A]``.
            observations: ``[*B, ...]`` each, or ``[*B, observation_steps, ...]``; floating-point
                ones are cast to the dtype of the noise.

        Returns:
            The chunk in physical units, ``[*B, H, A]``; it has a graph only if the noise, an
            observation or a parameter requires one.

        Raises:
            ShapeError: if the noise or a history has another shape.
        """
        if noise.shape[-2:] != self.chunk_shape:
            raise ShapeError(
                f"expected noise of shape [*B, {self.chunk_shape[0]}, {self.chunk_shape[1]}], got "
                f"{tuple(noise.shape)}"
            )
        values = self._prepare(observations, noise.ndim - 2, noise.dtype)
        flat = noise.reshape(-1, *self.chunk_shape)
        if flat.device.type == "cpu" and len(flat) > _BLOCK:
            parts = zip(*(tensor.split(_BLOCK) for tensor in (flat, *values)), strict=True)
            return torch.cat([self._sample(*part) for part in parts]).reshape(noise.shape)
        return self._sample(flat, *values).reshape(noise.shape)

    def _sample(self, noise: Tensor, *observations: Tensor) -> Tensor:
        """Decode noise ``[N, H, A]`` given prepared observations ``[N, ...]``."""
        steps = self.observation_steps
        model = bind_denoiser(
            self.denoiser, noise, self.schedule.timesteps, observations, steps=steps
        )
        chunk = self.schedule.integrate(noise, model)
        return chunk if self.normalizer is None else self.normalizer.denormalize_action(chunk)

    def cloning_loss(
        self, chunk: Tensor, *observations: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the denoiser's prediction at random noise levels.

        Args:
            chunk: demonstrated chunks in physical units, ``[*B, H, A]``.
            observations: as for :meth:`decode`.
            mask: ``[*B, H]`` bool, False where a chunk is padded; None counts every action.

        Returns:
            A scalar, in normalised units.

        Raises:
            ConfigurationError: if the scheduler is neither a diffusion nor a flow.
        """
        values = self._prepare(observations, chunk.ndim - 2, chunk.dtype)
        data = chunk.reshape(-1, *self.chunk_shape)
        if self.normalizer is not None:
            data = self.normalizer.normalize_action(data)
        mixed, timesteps, target = corrupt(self.scheduler, data)
        steps = self.observation_steps
        error = call_denoiser(self.denoiser, mixed, timesteps, values, steps=steps) - target
        if mask is None:
            return error.square().mean()
        kept = mask.reshape(-1, self.chunk_shape[0]).to(error.dtype)
        return (error.square().mean(-1) * kept).sum() / kept.sum().clamp(min=1.0)

    def fit_normalizer(self, chunk: Tensor, *observations: Tensor) -> None:
        """Take the statistics of data in place; the arguments are those of :meth:`cloning_loss`.

        Raises:
            ConfigurationError: if the policy has no normalizer.
        """
        if self.normalizer is None:
            raise ConfigurationError(
                "this policy has no normalizer to fit; give one at construction: "
                "normalizer=Normalizer(observation_shapes, action_dim)"
            )
        self.normalizer.fit(observations, chunk)

    def _prepare(
        self, observations: Sequence[Tensor], batch_dims: int, dtype: torch.dtype
    ) -> list[Tensor]:
        """Cast, normalise and flatten the batch of the observations: ``[N, ...]`` each."""
        if len(observations) != len(self.observation_keys):
            raise ShapeError(
                f"expected {len(self.observation_keys)} observations {self.observation_keys}, got "
                f"{len(observations)}"
            )
        prepared = []
        for index, value in enumerate(observations):
            self._check_history(index, value, batch_dims)
            if value.is_floating_point():
                value = value.to(dtype)
            if self.normalizer is not None:
                value = self.normalizer.normalize_observation(index, value)
            prepared.append(value.reshape(-1, *value.shape[batch_dims:]))
        return prepared

    def _check_history(self, index: int, value: Tensor, batch_dims: int) -> None:
        steps = self.observation_steps
        if steps > 1 and (value.ndim <= batch_dims or value.shape[batch_dims] != steps):
            raise ShapeError(
                f"expected {self.observation_keys[index]!r} with a history of {steps} steps, "
                f"[*B, {steps}, ...], got {tuple(value.shape)}"
            )

    def configuration(self) -> dict[str, Any]:
        """Return the options of policy, denoiser, scheduler and normalizer, JSON-able."""
        from modereg_integrations.diffusers.saving import configuration

        return configuration(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save in the layout of diffusers' pipelines; see :mod:`.saving`.

        Raises:
            CheckpointError: if the folder exists and is no saved policy.
        """
        from modereg_integrations.diffusers.saving import save_policy

        save_policy(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        denoiser: nn.Module | type[nn.Module] | None = None,
        scheduler: Any = None,
    ) -> DiffusersPolicy:
        """Load a saved policy, in ``eval`` mode.

        Args:
            folder: what :meth:`save_pretrained` wrote.
            denoiser: needed where the saved class is neither one of diffusers' models nor
                registered: the class, or a module whose parameters are then loaded.
            scheduler: a scheduler to use in place of the saved one.

        Raises:
            CheckpointError: if the folder is damaged, foreign, or names a class that is not
                trusted. Nothing is imported and nothing unpickled on the folder's behalf.
        """
        from modereg_integrations.diffusers.saving import load_policy

        return load_policy(Path(folder), denoiser=denoiser, scheduler=scheduler)

    @classmethod
    def untrained(
        cls,
        *,
        observation_shapes: Mapping[NestedKey, Sequence[int]],
        chunk_shape: Sequence[int],
        method: Literal["diffusion", "flow"] = "diffusion",
        hidden: Sequence[int] = (512, 512, 512),
        num_train_timesteps: int = 128,
        num_inference_steps: int = 8,
        prediction_type: Literal["sample", "v_prediction"] = "v_prediction",
        normalization: Mode = "minmax",
        observation_steps: int = 1,
        observation_octaves: int = 0,
    ) -> DiffusersPolicy:
        """Make a policy with a fresh :class:`MLPDenoiser`, to be cloned from demonstrations.

        A diffusion uses a squared-cosine schedule and DDIM with ``"trailing"`` spacing, whose last
        step ends at the data, and predicts the velocity or the sample: at the first of few steps
        the noise says nothing of the data. A flow takes ``num_inference_steps`` equal Euler steps.

        Args:
            observation_shapes: key -> shape at one step, without batch and history.
            chunk_shape: ``(H, A)``.
            method: ``"diffusion"`` or ``"flow"``.
            hidden: widths of the denoiser's hidden layers.
            num_train_timesteps: noise levels of a diffusion, a multiple of
                ``num_inference_steps`` for even spacing; a flow has a continuum.
            num_inference_steps: denoiser calls of a decode.
            prediction_type: what a diffusion's denoiser predicts; the velocity keeps modes apart
                better.
            normalization: mode of the :class:`Normalizer`; fit it with :meth:`fit_normalizer`.
            observation_steps: length of the observation history.
            observation_octaves: see :class:`MLPDenoiser`.

        Raises:
            ConfigurationError: if an option is none of those above.
        """
        shapes = [tuple(shape) for shape in observation_shapes.values()]
        scheduler = fresh_scheduler(
            method, num_train_timesteps, num_inference_steps, prediction_type
        )
        denoiser = MLPDenoiser(
            action_dim=chunk_shape[1],
            horizon=chunk_shape[0],
            observation_dims=[observation_steps * torch.Size(s).numel() for s in shapes],
            hidden=list(hidden),
            num_train_timesteps=scheduler.config.num_train_timesteps,
            observation_octaves=observation_octaves,
        )
        return cls(
            denoiser,
            scheduler,
            chunk_shape=chunk_shape,
            observation_keys=list(observation_shapes),
            num_inference_steps=num_inference_steps,
            normalizer=Normalizer(shapes, chunk_shape[1], normalization),
            observation_steps=observation_steps,
        )


def _check_normalizer(normalizer: Normalizer | None, observations: int, action_dim: int) -> None:
    if normalizer is None:
        return
    if len(normalizer.observation_shapes) != observations or normalizer.action_dim != action_dim:
        raise ConfigurationError(
            f"the normalizer is of {len(normalizer.observation_shapes)} observations and "
            f"{normalizer.action_dim} action dimensions, the policy of {observations} and "
            f"{action_dim}; make it with Normalizer(observation_shapes, action_dim)"
        )
