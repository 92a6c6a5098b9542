r"""The contract of a pretrained generative policy: :math:`a = f(s, w)` with :math:`w \sim N(0, I)`.

Whatever decodes noise into an action chunk, deterministically in the noise, can be steered: a
diffusion policy under a deterministic sampler, a flow-matching policy, a VLA's action expert.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from modereg import keys
from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    ShapeError,
)
from modereg.policies.denoising import Denoising
from modereg.storage import fingerprint
from modereg.suggestions import with_shape_suggestion, with_suggestion

__all__ = ["GenerativePolicy", "cast", "uniform_dtype"]


class GenerativePolicy(TensorDictModuleBase, ABC):
    """A policy that decodes latent noise into an action chunk.

    Subclasses implement :meth:`decode`, which must be deterministic in the noise, independent of
    the rest of the batch and differentiable in the noise.

    Args:
        observation_keys: entries that :meth:`decode` reads, in its order; nested keys allowed.
        noise_shape: shape of one noise, without batch.
        chunk_shape: shape ``(H, A)`` of one chunk: H actions of A dimensions.
        observation_shapes: shape of each observation at one step, in the order of the keys; an
            observation of another shape is refused, where it might else broadcast. None, for one or
            all, checks nothing.
        autocast: ``torch.bfloat16`` or ``torch.float16``: :meth:`decode_from` runs under
            ``torch.autocast`` of this type and returns the noise's. In bfloat16 a chunk agrees with
            float32's to about 2 % of its range. It changes speed, not the policy: fingerprints and
            saved folders leave it out, and it may be set at any time.
        noise_key: entry of the noise.
        chunk_key: entry that :meth:`forward` writes.

    Raises:
        ConfigurationError: if a key occurs twice, or ``autocast`` is another type.
        ShapeError: if a shape is not one of positive sizes, or ``observation_shapes`` is of another
            number of observations.
    """

    observation_steps: int = 1
    """Environment steps S that each observation covers. Above 1 :meth:`decode` is given
    ``[*B, S, ...]``, the newest last, from :class:`~modereg.transforms.ObservationStack` where
    there is one."""

    learns_shapes: bool = False
    """Whether ``observation_shapes`` that are unknown are those of the first probe's example."""

    def __init__(
        self,
        *,
        observation_keys: Sequence[NestedKey],
        noise_shape: Sequence[int],
        chunk_shape: Sequence[int],
        observation_shapes: Sequence[Sequence[int] | None] | None = None,
        autocast: torch.dtype | None = None,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        super().__init__()
        self.observation_keys: list[NestedKey] = list(observation_keys)
        self.noise_key, self.chunk_key = noise_key, chunk_key
        self.noise_shape, self.chunk_shape = torch.Size(noise_shape), torch.Size(chunk_shape)
        self.in_keys = [*self.observation_keys, noise_key]
        self.out_keys = [chunk_key]
        shapes = observation_shapes or [None] * len(self.observation_keys)
        self.observation_shapes = [None if one is None else torch.Size(one) for one in shapes]
        self.autocast = autocast
        self._check_construction()

    def _check_construction(self) -> None:
        if len(set(self.in_keys)) != len(self.in_keys):
            raise ConfigurationError(f"expected distinct keys, got {self.in_keys}")
        if len(self.chunk_shape) != 2 or min(self.chunk_shape) < 1:
            raise ShapeError(
                f"expected chunk_shape (actions, action dimensions), got {tuple(self.chunk_shape)}"
            )
        if not self.noise_shape or min(self.noise_shape) < 1:
            raise ShapeError(f"expected a noise_shape of positive sizes, got {self.noise_shape}")
        if len(self.observation_shapes) != len(self.observation_keys):
            raise ShapeError(
                f"expected a shape for each of {self.observation_keys}, got "
                f"{len(self.observation_shapes)}"
            )
        if self.autocast not in (None, torch.bfloat16, torch.float16):
            raise ConfigurationError(
                f"expected autocast of torch.bfloat16, torch.float16 or None, got {self.autocast}"
            )

    @abstractmethod
    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Decode noise into an action chunk.

        Args:
            noise: ``[*B, *noise_shape]``.
            observations: one value for each of ``observation_keys``, batched alike.

        Returns:
            The chunk, ``[*B, H, A]``.
        """

    def denoising(self, scale: float) -> Denoising:
        """Return the steps of :meth:`decode`, with noise in them, so that weights can be trained.

        Subclasses whose decode is such a chain override it.

        Args:
            scale: of the noise; 0 is :meth:`decode`, to float precision.

        Raises:
            ConfigurationError: if the decode is no chain of such steps, or has none at this scale.
        """
        raise ConfigurationError(
            "expected a policy whose denoising steps are known one by one, FlowPolicy, or "
            "DiffusersPolicy with DDIMScheduler or FlowMatchEulerDiscreteScheduler, got "
            f"{type(self).__name__}; train its noise instead (finetune ppo, sac or dsrl), or give "
            "it a method denoising(scale)"
        )

    def configuration(self) -> dict[str, Any]:
        """Return what besides the weights decides what is decoded, JSON-able.

        Subclasses add their options: number of steps, scheduler, normalisation.
        """
        steps = self.observation_steps
        several = {} if steps == 1 else {"observation_steps": steps}
        return several | {
            "class": type(self).__name__,
            "observation_keys": [
                list(k) if isinstance(k, tuple) else k for k in self.observation_keys
            ],
            "noise_shape": list(self.noise_shape),
            "chunk_shape": list(self.chunk_shape),
        }

    def fingerprint(self) -> str:
        """Return a digest of weights and :meth:`configuration`: what adapters are tied to."""
        return self._fingerprint_of(self)

    def _fingerprint_of(self, weights: nn.Module) -> str:
        text = json.dumps(self.configuration(), sort_keys=True, default=str)
        return hashlib.sha256((text + fingerprint(weights)).encode()).hexdigest()

    def draw_noise(
        self,
        batch_size: Sequence[int],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw ``w ~ N(0, I)`` of shape ``[*batch_size, *noise_shape]``."""
        return torch.randn((*batch_size, *self.noise_shape), device=device, dtype=dtype)

    def draw_noise_for(self, tensordict: TensorDictBase) -> Tensor:
        """Draw noise for a tensordict, on the device and in the type of the weights, if any."""
        weight = next((p for p in self.parameters() if p.is_floating_point()), None)
        if weight is None:
            return self.draw_noise(tensordict.batch_size, device=tensordict.device)
        size, device = tensordict.batch_size, weight.device
        return self.draw_noise(size, device=device, dtype=weight.dtype)

    def decode_from(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        """Decode with the observations of a tensordict.

        :meth:`decode` is given copies, so that one that works in place changes nothing of the
        caller's.

        Raises:
            KeyMismatchError: if the tensordict lacks an observation.
            ShapeError: if the noise does not have shape ``[*B, *noise_shape]``, or an observation
                not the one that ``observation_shapes`` names.
        """
        values = [_copied(value) for value in (noise, *self.read_observations(tensordict, noise))]
        if self.autocast is None:
            return self.decode(*values)
        with torch.autocast(noise.device.type, dtype=self.autocast):
            return self.decode(*values).to(noise.dtype)

    def read_observations(self, tensordict: TensorDictBase, noise: Tensor) -> list[Any]:
        """Check the noise and return the observations in the order of ``observation_keys``."""
        expected = (*tensordict.batch_size, *self.noise_shape)
        if tuple(noise.shape) != expected:
            sentence = (
                f"expected noise of shape {expected} (batch {tuple(tensordict.batch_size)} and "
                f"noise_shape {tuple(self.noise_shape)}), got {tuple(noise.shape)}"
            )
            raise ShapeError(with_shape_suggestion(sentence, noise.shape, expected))
        entries = self.observation_entries(tensordict)
        values = [tensordict.get(key, None) for key in entries]
        for key, value in zip(self.observation_keys, values, strict=True):
            if value is None:
                there = list(tensordict.keys(True, True))
                sentence = (
                    f"the policy reads {key!r}, which the tensordict lacks (it has "
                    f"{sorted(map(str, there))}); rename the entry or give the policy other "
                    "observation keys"
                )
                raise KeyMismatchError(with_suggestion(sentence, key, there))
        self.check_observations(values, tensordict.batch_size)
        return values

    def check_observations(self, observations: Sequence[Any], batch_size: Sequence[int]) -> None:
        """Check the shapes of observations ``[*batch_size, ...]`` that are known.

        Raises:
            ShapeError: if one has another shape, though it might broadcast.
        """
        steps = () if self.observation_steps == 1 else (self.observation_steps,)
        rows = zip(self.observation_keys, self.observation_shapes, observations, strict=True)
        for key, shape, value in rows:
            if shape is None or not isinstance(value, Tensor):
                continue
            expected = (*batch_size, *steps, *shape)
            if tuple(value.shape) != expected:
                history = f" with a history of {steps[0]} steps" if steps else ""
                sentence = (
                    f"expected {key!r}{history} of shape {expected} (batch {tuple(batch_size)}, "
                    f"one observation {tuple(shape)}), got {tuple(value.shape)}"
                )
                raise ShapeError(with_shape_suggestion(sentence, value.shape, expected))

    def observation_entries(self, tensordict: TensorDictBase) -> list[NestedKey]:
        """Return where the observations stand: in their stacks, where the policy reads any."""
        stacks = self.steered_entries
        if self.observation_steps == 1:
            return stacks
        found = [tensordict.get(stack, None) is not None for stack in stacks]
        rows = zip(self.observation_keys, stacks, found, strict=True)
        return [stack if there else key for key, stack, there in rows]

    @property
    def steered_entries(self) -> list[NestedKey]:
        """Where a steered environment has the observations: in stacks, if several are read."""
        if self.observation_steps == 1:
            return self.observation_keys
        return [keys.stacked(key) for key in self.observation_keys]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the chunk; missing noise is drawn from N(0, I)."""
        noise = tensordict.get(self.noise_key, None)
        if noise is None:
            noise = self.draw_noise_for(tensordict)
        return tensordict.set(self.chunk_key, self.decode_from(tensordict, noise))


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor | TensorDictBase) else value


def uniform_dtype(module: nn.Module) -> torch.dtype | None:
    """Return the type of a module's floating-point parameters, None if it has none or several."""
    types = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return types.pop() if len(types) == 1 else None


def cast(values: Sequence[Any], dtype: torch.dtype | None) -> list[Any]:
    """Return values, the floating-point tensors among them in a type; None leaves all as is."""
    if dtype is None:
        return list(values)
    return [
        value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in values
    ]
