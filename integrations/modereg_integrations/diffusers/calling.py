"""How a denoiser is called: its layout, its observations and its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any

import torch
from diffusers import UNet1DModel
from tensordict import NestedKey
from torch import Tensor, nn

from modereg.errors import ConfigurationError
from modereg_integrations.diffusers.normalizer import Normalizer

__all__ = ["bind_denoiser", "call_denoiser", "check_parts", "unwrap"]

_HOOKS = ("condition", "embed_times", "denoise")


def unwrap(module: nn.Module) -> nn.Module:
    """Return what a module only passes its arguments on to: compiled, parallel, or wrapped so.

    That is the one child of a module without parameters of its own whose ``forward`` takes
    ``*args`` and ``**kwargs`` alone, as ``torch.compile``'s and ``DataParallel`` do.
    """
    while _passes_on(type(module).forward):
        children = list(module.children())
        if len(children) != 1 or next(module.parameters(recurse=False), None) is not None:
            break
        module = children[0]
    return module


@cache
def _passes_on(forward: Callable[..., Any]) -> bool:
    _, *parameters = signature(forward).parameters.values()
    return all(p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for p in parameters)


def check_parts(
    denoiser: nn.Module,
    normalizer: Normalizer | None,
    observation_keys: Sequence[NestedKey],
    chunk_shape: Sequence[int],
    global_cond: bool,
) -> None:
    """Check that a denoiser takes what it will be given, and a normalizer what it will map.

    Raises:
        ConfigurationError: if not.
    """
    if global_cond and (not observation_keys or isinstance(unwrap(denoiser), UNet1DModel)):
        raise ConfigurationError(
            "expected global_cond=True for observations of a denoiser that takes it, got "
            f"{type(unwrap(denoiser)).__name__} with {list(observation_keys)}; leave it out"
        )
    if normalizer is None:
        return
    seen, dims = len(normalizer.observation_shapes), normalizer.action_dim
    if seen != len(observation_keys) or dims != chunk_shape[-1]:
        raise ConfigurationError(
            f"the normalizer is of {seen} observations and {dims} action dimensions, the policy of "
            f"{len(observation_keys)} and {chunk_shape[-1]}; make it with "
            "Normalizer(observation_shapes, action_dim)"
        )


def call_denoiser(
    denoiser: nn.Module,
    sample: Tensor,
    timestep: Tensor,
    observations: Sequence[Tensor],
    *,
    steps: int = 1,
    global_cond: bool = False,
) -> Tensor:
    """Call a denoiser on chunks ``[B, H, A]``.

    A denoiser is called as ``denoiser(sample [B, H, A], timestep, *observations)``, with a time
    step that is a scalar or ``[B]``, and returns ``[B, H, A]`` or an object whose ``sample`` is
    that. With ``global_cond`` it is called as ``denoiser(sample, timestep, global_cond=flat
    [B, steps * sum O])``. :class:`diffusers.UNet1DModel` is called in its own layout instead:
    channels first, the flat observations as further channels that are constant over the horizon;
    its ``in_channels`` is A plus their length. Histories of several steps, ``[B, steps, ...]``, are
    made flat as diffusion policies do it: all observations of the first step, then of the next.

    It is given everything in the type of its first weight, and returns the sample's type.
    """
    dtype = _dtype(denoiser, sample)
    call = _caller(denoiser, sample, _cast(observations, dtype), steps, global_cond)
    return call(sample.to(dtype), timestep).to(sample.dtype)


def bind_denoiser(
    denoiser: nn.Module,
    sample: Tensor,
    timesteps: Tensor,
    observations: Sequence[Tensor],
    *,
    steps: int = 1,
    global_cond: bool = False,
) -> Callable[[Tensor, int], Tensor]:
    """Bind observations and time steps ``[S]``; what does not change is computed here, once.

    A denoiser that offers ``condition(*observations)``, ``embed_times(timesteps [S])`` and
    ``denoise(sample, time, condition)``, with ``time`` one row of the embedding (``[1, ...]``), is
    called through these three.

    Returns:
        ``model(sample [B, H, A], step) -> [B, H, A]``.
    """
    dtype, wanted = _dtype(denoiser, sample), sample.dtype
    observations, timesteps = _cast(observations, dtype), timesteps.to(sample.device)
    times: Sequence[Tensor]
    call: Callable[[Tensor, Tensor], Tensor]
    if not global_cond and all(hasattr(type(denoiser), name) for name in _HOOKS):
        hooks: Any = denoiser
        condition = hooks.condition(*observations)
        times = hooks.embed_times(timesteps).split(1)
        call = lambda x, time: hooks.denoise(x, time, condition)  # noqa: E731
    else:
        times = timesteps.unbind()
        call = _caller(denoiser, sample, observations, steps, global_cond)
    if dtype == wanted and not torch.is_autocast_enabled(sample.device.type):
        return lambda x, step: call(x, times[step])
    return lambda x, step: call(x.to(dtype), times[step]).to(wanted)


def _dtype(denoiser: nn.Module, sample: Tensor) -> torch.dtype:
    first = next(denoiser.parameters(), None)
    return first.dtype if first is not None and first.is_floating_point() else sample.dtype


def _cast(observations: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [value.to(dtype) if value.is_floating_point() else value for value in observations]


def _caller(
    denoiser: nn.Module,
    sample: Tensor,
    observations: Sequence[Tensor],
    steps: int,
    global_cond: bool,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``call(sample, timestep)`` in the layout of the denoiser."""
    if isinstance(unwrap(denoiser), UNet1DModel):
        constant = None
        if observations:
            constant = _flat(observations, steps).unsqueeze(-1).expand(-1, -1, sample.shape[-2])
        return lambda x, time: _call_unet(denoiser, x, time, constant)
    named = {"global_cond": _flat(observations, steps)} if global_cond else {}
    given = () if global_cond else observations

    def call(x: Tensor, time: Tensor) -> Tensor:
        output = denoiser(x, time, *given, **named)
        return output if isinstance(output, Tensor) else output.sample

    return call


def _flat(observations: Sequence[Tensor], steps: int) -> Tensor:
    """Join observations, ``[B, steps * sum O]``."""
    entry = 1 if steps == 1 else 2
    return torch.cat([value.flatten(entry) for value in observations], -1).flatten(1)


def _call_unet(
    unet: nn.Module, sample: Tensor, timestep: Tensor, constant: Tensor | None
) -> Tensor:
    channels = sample.transpose(1, 2)  # [B, A, H]
    if constant is not None:
        channels = torch.cat([channels, constant], 1)
    output = unet(channels, timestep, return_dict=False)[0]
    return output[:, : sample.shape[-1]].transpose(1, 2)
