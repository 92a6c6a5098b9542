"""Diffusion and flow-matching policies made of a denoiser and a scheduler of diffusers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from modereg import keys
from modereg.errors import (
    CheckpointError,
    ConfigurationError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.policies import Denoising, GenerativePolicy
from modereg_integrations.diffusers.calling import (
    bind_denoiser,
    call_denoiser,
    check_parts,
    unwrap,
)
from modereg_integrations.diffusers.cloning import check_clonable, corrupt, fresh_scheduler
from modereg_integrations.diffusers.denoiser import MLPDenoiser
from modereg_integrations.diffusers.denoising import noisy_steps
from modereg_integrations.diffusers.normalizer import Mode, Normalizer
from modereg_integrations.diffusers.saving import Parts, load_parts, part_options, save_parts
from modereg_integrations.diffusers.schedule import make_schedule, spacing_of

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
            as further constant channels. Compiled and parallel modules are called, saved and known
            as what they wrap. Weights may be of another type than noise and observations. What does
            not change within a decode is computed once if it offers ``condition``, ``embed_times``
            and ``denoise`` (see :func:`~modereg_integrations.diffusers.calling.bind_denoiser`).
        scheduler: any scheduler of diffusers that is a deterministic function of its initial noise;
            it is copied.
        chunk_shape: ``(H, A)``; the noise has the same shape.
        observation_keys: entries given to the denoiser, in its order.
        num_inference_steps: given to the scheduler's ``set_timesteps``.
        timesteps: given to it in place of a number, where it takes time steps of one's own.
        sigmas: the same for noise levels.
        normalizer: maps between physical and normalised units; None where the denoiser works in
            physical units.
        observation_steps: length of the observation history. Above 1, observations are
            ``[*B, observation_steps, ...]``, the newest last.
        global_cond: call the denoiser as ``denoiser(sample, timestep, global_cond=...)``, with one
            flat vector of all observations, in the order of their keys, step by step: as Diffusion
            Policy's ``ConditionalUnet1D`` is.
        observation_shapes: shape of each observation at one step; None takes the normalizer's, or
            those that the policy is first probed with.
        autocast: see :class:`~modereg.policies.GenerativePolicy`.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        StochasticSamplerError: if the scheduler draws random numbers; the sentence has the fix.
        ConfigurationError: if the scheduler cannot make these steps or carries others that were set
            by hand, the normalizer is of other observations or action dimensions, or the denoiser
            takes no ``global_cond``.
    """

    learns_shapes = True

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        *,
        chunk_shape: Sequence[int],
        observation_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        num_inference_steps: int = 8,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        normalizer: Normalizer | None = None,
        observation_steps: int = 1,
        global_cond: bool = False,
        observation_shapes: Sequence[Sequence[int] | None] | None = None,
        autocast: torch.dtype | None = None,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        if observation_shapes is None and normalizer is not None:
            observation_shapes = normalizer.observation_shapes
        check_parts(denoiser, normalizer, observation_keys, chunk_shape, global_cond)
        super().__init__(
            observation_keys=observation_keys,
            noise_shape=chunk_shape,
            chunk_shape=chunk_shape,
            observation_shapes=observation_shapes,
            autocast=autocast,
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        self.denoiser = denoiser
        self.scheduler = copy.deepcopy(scheduler)
        self.num_inference_steps = index(num_inference_steps)
        self.timesteps = None if timesteps is None else [float(time) for time in timesteps]
        self.sigmas = None if sigmas is None else [float(sigma) for sigma in sigmas]
        self.observation_steps = observation_steps
        self.global_cond = global_cond
        self.normalizer = normalizer
        self.schedule = make_schedule(
            scheduler, self.num_inference_steps, self.timesteps, self.sigmas
        )
        self._clonable = False

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
            ShapeError: if the noise or an observation has another shape.
        """
        if noise.shape[-2:] != self.chunk_shape:
            raise ShapeError(
                f"expected noise of shape [*B, {self.chunk_shape[0]}, {self.chunk_shape[1]}], got "
                f"{tuple(noise.shape)}"
            )
        values = self._prepare(observations, noise)
        flat = noise.reshape(-1, *self.chunk_shape)
        if flat.device.type == "cpu" and len(flat) > _BLOCK:
            parts = zip(*(tensor.split(_BLOCK) for tensor in (flat, *values)), strict=True)
            return torch.cat([self._sample(*part) for part in parts]).reshape(noise.shape)
        return self._sample(flat, *values).reshape(noise.shape)

    def _sample(self, noise: Tensor, *observations: Tensor) -> Tensor:
        """Decode noise ``[N, H, A]`` given prepared observations ``[N, ...]``."""
        model = bind_denoiser(
            self.denoiser,
            noise,
            self.schedule.timesteps,
            observations,
            steps=self.observation_steps,
            global_cond=self.global_cond,
        )
        return self._physical(self.schedule.integrate(noise, model))

    def _physical(self, chunk: Tensor) -> Tensor:
        if self.normalizer is None:
            return chunk
        return self.normalizer.denormalize_action(chunk).to(chunk.dtype)

    def _normalised(self, chunk: Tensor) -> Tensor:
        if self.normalizer is None:
            return chunk
        return self.normalizer.normalize_action(chunk).to(chunk.dtype)

    def denoising(self, scale: float) -> Denoising:
        """Return the steps with noise, of eta ``scale`` for DDIM; see :mod:`.denoising`.

        Raises:
            ConfigurationError: if the scheduler has no such steps.
        """
        spacing = spacing_of(self.num_inference_steps, self.timesteps, self.sigmas)
        given = self.scheduler, self.schedule, spacing, scale
        return noisy_steps(self._step_output, *given)._replace(
            units=(self._physical, self._normalised)
        )

    def _step_output(self, sample: Tensor, step: Tensor, *observations: Tensor) -> Tensor:
        """Return what the denoiser does, ``[N, H, A]``, at the times of steps ``[N]``."""
        return call_denoiser(
            self.denoiser,
            sample,
            self.schedule.timesteps.to(sample.device)[step],
            self._prepare(observations, sample),
            steps=self.observation_steps,
            global_cond=self.global_cond,
        )

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
            ConfigurationError: if the scheduler is neither a diffusion nor a flow, or decodes by
                other rules than those that it can be trained by.
            ShapeError: if an observation has another shape.
        """
        if not self._clonable:
            check_clonable(self.scheduler, self.schedule)
            self._clonable = True
        values = self._prepare(observations, chunk)
        data = self._normalised(chunk.reshape(-1, *self.chunk_shape))
        mixed, timesteps, target = corrupt(self.scheduler, data)
        predicted = call_denoiser(
            self.denoiser,
            mixed,
            timesteps,
            values,
            steps=self.observation_steps,
            global_cond=self.global_cond,
        )
        error = predicted - target
        if mask is None:
            return error.square().mean()
        kept = mask.reshape(-1, self.chunk_shape[0]).to(error.dtype)
        return (error.square().mean(-1) * kept).sum() / kept.sum().clamp(min=1.0)

    def fit_normalizer(
        self, chunk: Tensor, *observations: Tensor, mask: Tensor | None = None
    ) -> None:
        """Take the statistics of data in place; the arguments are those of :meth:`cloning_loss`.

        Padded actions do not count.

        Raises:
            ConfigurationError: if the policy has no normalizer.
        """
        if self.normalizer is None:
            raise ConfigurationError(
                "this policy has no normalizer to fit; give one at construction: "
                "normalizer=Normalizer(observation_shapes, action_dim)"
            )
        self.normalizer.fit(observations, chunk, mask)

    def _prepare(self, observations: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """Cast, normalise and flatten the batch of the observations: ``[N, ...]`` each."""
        if len(observations) != len(self.observation_keys):
            raise ShapeError(
                f"expected {len(self.observation_keys)} observations {self.observation_keys}, got "
                f"{len(observations)}"
            )
        batch = like.shape[:-2]
        self.check_observations(observations, batch)
        prepared = []
        for number, value in enumerate(observations):
            self._check_history(number, value, batch)
            if value.is_floating_point():
                value = value.to(like.dtype)
            if self.normalizer is not None:
                value = self.normalizer.normalize_observation(number, value)
            prepared.append(value.reshape(-1, *value.shape[len(batch) :]))
        return prepared

    def _check_history(self, number: int, value: Tensor, batch: torch.Size) -> None:
        steps = () if self.observation_steps == 1 else (self.observation_steps,)
        expected = (*batch, *steps)
        if tuple(value.shape[: len(expected)]) != expected:
            history = f" with a history of {steps[0]} steps" if steps else ""
            raise ShapeError(
                f"expected {self.observation_keys[number]!r}{history} of shape "
                f"({', '.join(map(str, expected))}, ...), got {tuple(value.shape)}"
            )

    def _parts(self) -> Parts:
        options = {
            "chunk_shape": list(self.chunk_shape),
            "observation_keys": self.observation_keys,
            "num_inference_steps": self.num_inference_steps,
            "timesteps": self.timesteps,
            "sigmas": self.sigmas,
            "observation_steps": self.observation_steps,
            "global_cond": self.global_cond,
            "noise_key": self.noise_key,
            "chunk_key": self.chunk_key,
        }
        return Parts(unwrap(self.denoiser), self.scheduler, self.normalizer, options)

    def configuration(self) -> dict[str, Any]:
        """Return the options of policy, denoiser, scheduler and normalizer, JSON-able."""
        return part_options(self._parts())

    def fingerprint(self) -> str:
        """Return a digest of weights and options: before saving, after loading, compiled or not."""
        return self._fingerprint_of(self._parts().modules())

    def save_pretrained(self, folder: str | Path) -> None:
        """Save in the layout of diffusers' pipelines; see :mod:`.saving`.

        Raises:
            CheckpointError: if the folder exists and is no saved policy.
        """
        save_parts(self._parts(), self.observation_shapes, Path(folder))

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
        parts = load_parts(Path(folder), denoiser=denoiser, scheduler=scheduler)
        try:
            return cls(
                parts.denoiser, parts.scheduler, normalizer=parts.normalizer, **parts.options
            ).eval()
        except StochasticSamplerError:
            raise
        except ConfigurationError as error:
            raise CheckpointError(f"{folder} is damaged: {error}") from error

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
