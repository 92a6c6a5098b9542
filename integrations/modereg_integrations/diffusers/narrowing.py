"""A policy without one of its observations: as it is where that is always zeros."""

from __future__ import annotations

from typing import cast

import torch
from tensordict import NestedKey
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.diffusers.denoiser import MLPDenoiser
from modereg_integrations.diffusers.normalizer import Normalizer
from modereg_integrations.diffusers.policy import DiffusersPolicy

__all__ = ["without_observation"]


@torch.no_grad()
def without_observation(policy: DiffusersPolicy, key: NestedKey) -> DiffusersPolicy:
    """Return the policy that reads all observations but one, and decodes as if that were zeros.

    What zeros add to the first layer is the same for every state, and becomes a part of its bias.

    Args:
        policy: with an :class:`MLPDenoiser`, a normalizer, and observations of one step.
        key: the observation.

    Raises:
        ConfigurationError: if the policy is of another make, does not read the observation, or
            reads no other.
    """
    denoiser, normalizer, keys = policy.denoiser, policy.normalizer, list(policy.observation_keys)
    if (
        not isinstance(denoiser, MLPDenoiser)
        or normalizer is None
        or policy.observation_steps > 1
        or key not in keys
        or len(keys) < 2
    ):
        raise ConfigurationError(
            f"expected a policy with an MLPDenoiser and a normalizer that reads {key!r} and other "
            f"observations, of one step, got {type(denoiser).__name__} with {keys}"
        )
    index = keys.index(key)
    kept = [number for number in range(len(keys)) if number != index]
    made = DiffusersPolicy(
        _denoiser(denoiser, normalizer, index),
        policy.scheduler,
        chunk_shape=policy.chunk_shape,
        observation_keys=[keys[number] for number in kept],
        num_inference_steps=policy.num_inference_steps,
        timesteps=policy.timesteps,
        sigmas=policy.sigmas,
        normalizer=_normalizer(normalizer, kept),
        noise_key=policy.noise_key,
        chunk_key=policy.chunk_key,
    )
    return made.train(policy.training)


def _denoiser(denoiser: MLPDenoiser, normalizer: Normalizer, index: int) -> MLPDenoiser:
    """Return the denoiser without the columns of an observation, which go into the bias."""
    options = dict(denoiser.config)
    dims, octaves = list(options["observation_dims"]), int(options["observation_octaves"])
    names = ("action_dim", "horizon", "hidden", "num_train_timesteps", "time_features")
    made = MLPDenoiser(
        **{name: options[name] for name in names},
        observation_dims=dims[:index] + dims[index + 1 :],
        observation_octaves=octaves,
    )
    left_out = torch.zeros(sum(dims), dtype=torch.bool)
    left_out[sum(dims[:index]) : sum(dims[: index + 1])] = True
    of_octaves = left_out.repeat_interleave(octaves)
    columns = torch.cat([left_out, of_octaves, of_octaves]).to(denoiser.device)

    state = dict(denoiser.state_dict())
    weight = state["observation_layer.weight"]
    zeros = [torch.zeros(1, size, device=weight.device, dtype=weight.dtype) for size in dims]
    zeros[index] = _at_zero(normalizer, index, zeros[index])
    state["observation_layer.weight"] = weight[:, ~columns].clone()
    made.load_state_dict(state)
    whole = cast(Tensor, denoiser.condition(*zeros))
    rest = cast(Tensor, made.to(weight.device).condition(*zeros[:index], *zeros[index + 1 :]))
    made.time_layer.bias[: whole.shape[-1]] += (whole - rest).squeeze(0)
    return made


def _at_zero(normalizer: Normalizer, index: int, like: Tensor) -> Tensor:
    """Return what zeros of an observation are in normalised units, ``[1, D]``."""
    shape = normalizer.observation_shapes[index]
    return normalizer.normalize_observation(index, like.new_zeros(1, *shape)).flatten(1).to(like)


def _normalizer(normalizer: Normalizer, kept: list[int]) -> Normalizer:
    """Return the normalizer of some of the observations."""
    shapes = [normalizer.observation_shapes[number] for number in kept]
    made = Normalizer(shapes, normalizer.action_dim, normalizer.mode, normalizer.constant)
    for name in ("shift", "scale"):
        made.get_buffer(f"action_{name}").copy_(normalizer.get_buffer(f"action_{name}"))
        for place, number in enumerate(kept):
            from_there = normalizer.get_buffer(f"observation_{name}_{number}")
            made.get_buffer(f"observation_{name}_{place}").copy_(from_there)
    return made.to(normalizer.action_shift.device)
