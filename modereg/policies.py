r"""The contract of a pretrained generative policy: :math:`a = f(s, w)` with :math:`w \sim N(0, I)`.

Whatever decodes noise into an action chunk, deterministically in the noise, can be steered: a
diffusion policy under a deterministic sampler, a flow-matching policy, a VLA's action expert.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from modereg import keys
from modereg.devices import forked_generators, module_device
from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    NonFiniteError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.storage import fingerprint
from modereg.suggestions import with_shape_suggestion, with_suggestion

__all__ = ["FlowPolicy", "GenerativePolicy", "as_generative_policy", "assert_deterministic"]


class GenerativePolicy(TensorDictModuleBase, ABC):
    """A policy that decodes latent noise into an action chunk.

    Subclasses implement :meth:`decode`, which must be deterministic in the noise, independent of
    the rest of the batch and differentiable in the noise.

    Args:
        observation_keys: entries that :meth:`decode` reads, in its order; nested keys allowed.
        noise_shape: shape of one noise, without batch.
        chunk_shape: shape ``(H, A)`` of one chunk: H actions of A dimensions.
        noise_key: entry of the noise.
        chunk_key: entry that :meth:`forward` writes.

    Raises:
        ConfigurationError: if a key occurs twice.
        ShapeError: if a shape is not one of positive sizes.
    """

    observation_steps: int = 1
    """Environment steps S that each observation covers. Above 1 :meth:`decode` is given
    ``[*B, S, ...]``, the newest last, from :class:`~modereg.transforms.ObservationStack` where
    there is one."""

    def __init__(
        self,
        *,
        observation_keys: Sequence[NestedKey],
        noise_shape: Sequence[int],
        chunk_shape: Sequence[int],
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        super().__init__()
        self.observation_keys: list[NestedKey] = list(observation_keys)
        self.noise_key, self.chunk_key = noise_key, chunk_key
        self.noise_shape, self.chunk_shape = torch.Size(noise_shape), torch.Size(chunk_shape)
        self.in_keys = [*self.observation_keys, noise_key]
        self.out_keys = [chunk_key]
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

    @abstractmethod
    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Decode noise into an action chunk.

        Args:
            noise: ``[*B, *noise_shape]``.
            observations: one value for each of ``observation_keys``, batched alike.

        Returns:
            The chunk, ``[*B, H, A]``.
        """

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
        text = json.dumps(self.configuration(), sort_keys=True, default=str)
        return hashlib.sha256((text + fingerprint(self)).encode()).hexdigest()

    def draw_noise(
        self,
        batch_size: Sequence[int],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw ``w ~ N(0, I)`` of shape ``[*batch_size, *noise_shape]``."""
        return torch.randn((*batch_size, *self.noise_shape), device=device, dtype=dtype)

    def decode_from(self, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
        """Decode with the observations of a tensordict.

        Raises:
            KeyMismatchError: if the tensordict lacks an observation.
            ShapeError: if the noise does not have shape ``[*B, *noise_shape]``.
        """
        return self.decode(noise, *self.read_observations(tensordict, noise))

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
        return values

    def observation_entries(self, tensordict: TensorDictBase) -> list[NestedKey]:
        """Return where the observations stand: in their stacks, where the policy reads any."""
        if self.observation_steps == 1:
            return self.observation_keys
        stacks = [keys.stacked(key) for key in self.observation_keys]
        found = [tensordict.get(stack, None) is not None for stack in stacks]
        rows = zip(self.observation_keys, stacks, found, strict=True)
        return [stack if there else key for key, stack, there in rows]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the chunk; missing noise is drawn from N(0, I)."""
        noise = tensordict.get(self.noise_key, None)
        if noise is None:
            noise = _draw_noise_for(self, tensordict)
        return tensordict.set(self.chunk_key, self.decode_from(tensordict, noise))


def _draw_noise_for(policy: GenerativePolicy, tensordict: TensorDictBase) -> Tensor:
    """Draw noise on the device of the policy, in the dtype of its parameters, if it has any."""
    weight = next((p for p in policy.parameters() if p.is_floating_point()), None)
    if weight is None:
        return policy.draw_noise(tensordict.batch_size, device=tensordict.device)
    return policy.draw_noise(tensordict.batch_size, device=weight.device, dtype=weight.dtype)


def assert_deterministic(policy: GenerativePolicy, tensordict: TensorDictBase) -> None:
    """Probe that a policy decodes one noise into one chunk, of the shape that it declares.

    Args:
        policy: the policy.
        tensordict: observations, ``[*B]``.

    Raises:
        StochasticSamplerError: if two decodes of one noise differ.
        ShapeError: if the chunk's shape is not ``[*B, *chunk_shape]``.
        NonFiniteError: if the chunk is not finite.
    """
    with torch.no_grad(), forked_generators(module_device(policy), tensordict.device):
        noise = _draw_noise_for(policy, tensordict)
        torch.manual_seed(0)
        first = policy.decode_from(tensordict, noise)
        torch.manual_seed(1)
        second = policy.decode_from(tensordict, noise)
    expected = (*tensordict.batch_size, *policy.chunk_shape)
    if tuple(first.shape) != expected:
        raise ShapeError(
            f"expected a chunk of shape {expected}, got {tuple(first.shape)} from "
            f"{type(policy).__name__}; give the chunk_shape that it returns"
        )
    if not bool(torch.isfinite(first).all()):
        raise NonFiniteError(
            f"{type(policy).__name__} decoded a non-finite chunk from finite noise; look at its "
            "observations and normalisation"
        )
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        raise StochasticSamplerError(
            f"{type(policy).__name__} decoded one noise into two chunks that differ by "
            f"{float((first - second).abs().max()):.3g}, so its noise does not steer it; use a "
            "deterministic sampler (DDIMScheduler.from_config(...) in place of DDPM) and switch "
            "dropout off with .eval()"
        )


class _FunctionPolicy(GenerativePolicy):
    """What :func:`as_generative_policy` returns."""

    def __init__(self, function: Callable[..., Tensor], module: nn.Module | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.__dict__["_function"] = function  # not a submodule: its weights are saved once
        self.module = function if module is None and isinstance(function, nn.Module) else module

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        return self._function(noise, *observations)


def as_generative_policy(
    function: Callable[..., Tensor],
    *,
    in_keys: Sequence[NestedKey],
    noise_shape: Sequence[int],
    chunk_shape: Sequence[int],
    module: nn.Module | None = None,
    example: TensorDictBase | None = None,
    observation_steps: int = 1,
    noise_key: NestedKey = keys.NOISE,
    chunk_key: NestedKey = keys.CHUNK,
) -> GenerativePolicy:
    """Make a :class:`GenerativePolicy` of any function of noise and observations.

    Args:
        function: ``function(noise [*B, *noise_shape], *observations) -> chunk [*B, H, A]``;
            deterministic in the noise.
        in_keys: the observations that it takes, in its order.
        noise_shape: shape of one noise.
        chunk_shape: shape ``(H, A)`` of one chunk.
        module: what holds the function's parameters, if the function is no module itself, so that
            ``to``, ``parameters`` and fingerprints see them.
        example: observations to probe the function with now; without them it is probed when
            :class:`~modereg.transforms.NoiseAction` meets the environment.
        observation_steps: environment steps S that each observation covers; above 1 the function
            is given ``[*B, S, ...]``, the newest last.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        ConfigurationError: if ``observation_steps`` is not positive.
        StochasticSamplerError: if the function is not deterministic in the noise.
        ShapeError: if it returns another shape than ``chunk_shape``.
    """
    if observation_steps < 1:
        raise ConfigurationError(
            f"expected observation_steps of at least 1, got {observation_steps}"
        )
    policy = _FunctionPolicy(
        function,
        module,
        observation_keys=in_keys,
        noise_shape=noise_shape,
        chunk_shape=chunk_shape,
        noise_key=noise_key,
        chunk_key=chunk_key,
    )
    policy.observation_steps = observation_steps
    if example is not None:
        assert_deterministic(policy, example)
    return policy


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
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Reference: Lipman et al., Flow Matching for Generative Modeling, arXiv 2210.02747.
    """

    def __init__(
        self,
        velocity: nn.Module,
        *,
        observation_keys: Sequence[NestedKey],
        chunk_shape: Sequence[int],
        time_convention: TimeConvention,
        num_steps: int = 8,
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
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        self.velocity, self.num_steps, self.time_convention = velocity, num_steps, time_convention

    def configuration(self) -> dict[str, Any]:
        """Add the Euler steps and the time convention."""
        own = {"num_steps": self.num_steps, "time_convention": self.time_convention}
        return super().configuration() | own

    def _field(self, x: Tensor, progress: Tensor, observations: tuple[Any, ...]) -> Tensor:
        """Return dx/dtau = a - w, whatever the convention, at a progress ``[*B]``."""
        if self.time_convention == "noise_at_0":
            return self.velocity(x, progress, *observations)
        return -self.velocity(x, 1.0 - progress, *observations)

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Integrate the velocity field from the noise to the chunk by Euler steps."""
        x, batch = noise, noise.shape[: -len(self.noise_shape)]
        for step in range(self.num_steps):
            progress = noise.new_full(batch, step / self.num_steps)
            x = x + self._field(x, progress, observations) / self.num_steps
        return x

    def cloning_loss(self, chunk: Tensor, *observations: Any) -> Tensor:
        r"""Flow-matching loss: E || v(x_tau) - (a - w) ||^2, tau uniform in [0, 1].

        Args:
            chunk: demonstrated chunks, ``[*B, H, A]``.
            observations: one value for each of ``observation_keys``.

        Returns:
            A scalar.
        """
        noise = torch.randn_like(chunk)
        progress = torch.rand(chunk.shape[:-2], dtype=chunk.dtype, device=chunk.device)
        mix = progress[..., None, None]
        field = self._field((1 - mix) * noise + mix * chunk, progress, observations)
        return (field - (chunk - noise)).square().mean()
