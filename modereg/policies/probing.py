"""Whether a policy can be steered: one probe, before anything is trained on it."""

from __future__ import annotations

from typing import TypeVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg.devices import forked_generators, module_device
from modereg.errors import (
    ConfigurationError,
    ModeregError,
    NonFiniteError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.policies.generative import GenerativePolicy

__all__ = ["freeze", "probe_policy"]

Module = TypeVar("Module", bound=nn.Module)

_LOW = (torch.bfloat16, torch.float16)
_RAW = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)


def freeze(policy: Module) -> Module:
    """Put a policy in eval mode and let none of its parameters require gradients; return it."""
    return policy.eval().requires_grad_(False)


def probe_policy(
    policy: GenerativePolicy, tensordict: TensorDictBase, *, dtype: torch.dtype | None = None
) -> None:
    """Probe that a policy can be steered, with a few decodes in the mode that it is in.

    It must decode one noise into one finite chunk of the shape that it declares, each row of a
    batch on its own, without changing its parameters, its buffers or a chunk that it returned
    before. Torch's generators and the policy stay as they are, but a policy that takes its
    observations' shapes from the first example (:func:`as_generative_policy`) does so here.

    Args:
        policy: the policy; :func:`freeze` it before.
        tensordict: observations, ``[*B]``; a few rows are enough.
        dtype: type of the noise; None takes that of the policy's weights.

    Raises:
        StochasticSamplerError: if two decodes of one noise differ.
        ShapeError: if an observation or the chunk has another shape than declared.
        NonFiniteError: if the chunk is not finite.
        ConfigurationError: if rows depend on their batch, or the policy changes its own state or an
            earlier chunk, or fails.
    """
    before = {name: (value, value.clone()) for name, value in policy.named_buffers()}
    with torch.no_grad(), forked_generators(module_device(policy), tensordict.device):
        try:
            _probe(policy, tensordict, dtype, before)
        finally:
            for buffer, value in before.values():
                buffer.copy_(value)
    if policy.learns_shapes:
        _learn_shapes(policy, tensordict)


Buffers = dict[str, tuple[Tensor, Tensor]]
"""Name -> buffer and a copy of what it held."""


def _probe(
    policy: GenerativePolicy,
    tensordict: TensorDictBase,
    dtype: torch.dtype | None,
    before: Buffers,
) -> None:
    noise, other = (policy.draw_noise_for(tensordict).to(dtype) for _ in range(2))
    versions = _versions(policy)
    torch.manual_seed(0)
    first = _decode(policy, tensordict, noise)
    check_chunk(policy, tensordict.batch_size, first)
    kept = first.clone()
    torch.manual_seed(1)
    second = _decode(policy, tensordict, noise).clone()
    _check_finite(policy, kept)
    _check_state(policy, before, versions)
    _check_deterministic(policy, kept, second)
    _decode(policy, tensordict, other)
    _check_kept(policy, first, kept)
    if tensordict.batch_dims:
        _check_rows(policy, tensordict, noise, other)


def _learn_shapes(policy: GenerativePolicy, tensordict: TensorDictBase) -> None:
    dims = tensordict.batch_dims + (policy.observation_steps > 1)
    for index, entry in enumerate(policy.observation_entries(tensordict)):
        value = tensordict.get(entry)
        if policy.observation_shapes[index] is None and isinstance(value, Tensor):
            policy.observation_shapes[index] = value.shape[dims:]


def _decode(policy: GenerativePolicy, tensordict: TensorDictBase, noise: Tensor) -> Tensor:
    try:
        return policy.decode_from(tensordict, noise)
    except ModeregError:
        raise
    except _RAW as error:
        entries = [tensordict.get(key) for key in policy.observation_entries(tensordict)]
        tensors = [value for value in entries if isinstance(value, Tensor)]
        shapes = [f"{value.dtype} {list(value.shape)}" for value in tensors]
        raise ConfigurationError(
            f"{type(policy).__name__} failed on noise {noise.dtype} {list(noise.shape)} and the "
            f"observations {policy.observation_keys} of {', '.join(shapes)}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _versions(policy: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what tells whether a parameter was replaced or written to, at no cost."""
    return {
        name: (id(value), 0 if value.is_inference() else value._version)
        for name, value in policy.named_parameters()
    }


def check_chunk(policy: GenerativePolicy, batch: torch.Size, chunk: object) -> None:
    """Check that a policy decoded a tensor of its shape.

    Raises:
        ShapeError: if it is something else.
    """
    expected = (*batch, *policy.chunk_shape)
    if not isinstance(chunk, Tensor) or tuple(chunk.shape) != expected:
        shape = f" of shape {tuple(chunk.shape)}" if hasattr(chunk, "shape") else ""
        raise ShapeError(
            f"expected {type(policy).__name__} to decode a tensor of shape {expected}, got "
            f"{type(chunk).__name__}{shape}; let it return the chunk alone, as a torch.Tensor, and "
            "give the chunk_shape that it returns"
        )


def _check_finite(policy: GenerativePolicy, chunk: Tensor) -> None:
    if not bool(torch.isfinite(chunk).all()):
        raise NonFiniteError(
            f"{type(policy).__name__} decoded a non-finite chunk from finite noise; look at its "
            "observations and normalisation"
        )


def _check_state(
    policy: GenerativePolicy,
    before: Buffers,
    versions: dict[str, tuple[int, int]],
) -> None:
    """Check that parameters and saved buffers are as before."""
    saved = policy.state_dict()
    buffers = dict(policy.named_buffers())
    changed = [name for name, version in _versions(policy).items() if version != versions[name]]
    for name, (buffer, value) in before.items():
        if name in saved and not (buffers[name] is buffer and _equal(buffer, value)):
            changed.append(name)
    if changed:
        raise ConfigurationError(
            f"expected a policy that stays as it is, got {type(policy).__name__}, which changes "
            f"{changed} when it decodes; put it in eval mode, modereg.policies.freeze(policy), so "
            "that BatchNorm and running statistics stand still"
        )


def _equal(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first, second) or bool(
        first.shape == second.shape and ((first == second) | (first != first)).all()
    )


def _tolerance(policy: GenerativePolicy, chunk: Tensor) -> float:
    """Return how much of its range a chunk may change by rounding alone."""
    types = {chunk.dtype, policy.autocast, *(value.dtype for value in policy.parameters())}
    return 2e-2 if types.intersection(_LOW) else 1e-4


def _difference(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the largest difference, and the range that it is to be seen against."""
    return float((first - second).abs().max()), max(float(second.abs().max()), 1e-2)


def _check_deterministic(policy: GenerativePolicy, first: Tensor, second: Tensor) -> None:
    error, scale = _difference(first, second)
    if not error <= _tolerance(policy, first) * scale:
        raise StochasticSamplerError(
            f"{type(policy).__name__} decoded one noise into two chunks that differ by "
            f"{error:.3g}, so its noise does not steer it; use a deterministic sampler "
            "(DDIMScheduler.from_config(...) in place of DDPM) and switch dropout off with .eval()"
        )


def _check_kept(policy: GenerativePolicy, chunk: Tensor, kept: Tensor) -> None:
    if not torch.equal(chunk, kept):
        raise ConfigurationError(
            f"expected a chunk of its own from each decode, got one of {type(policy).__name__} "
            "that the next decode writes over; return a copy, chunk.clone()"
        )


def _check_rows(
    policy: GenerativePolicy, tensordict: TensorDictBase, noise: Tensor, other: Tensor
) -> None:
    """Check that the first row decodes alone as it does among others."""
    read = tensordict.select(*policy.observation_entries(tensordict)).reshape(-1)
    rows, more = read[:1], torch.cat([read[:1], read])
    shape = policy.noise_shape
    alone = noise.reshape(-1, *shape)[:1]
    together = torch.cat([alone, other.reshape(-1, *shape)])
    chunk = _decode(policy, rows, alone)
    error, scale = _difference(_decode(policy, more, together)[:1], chunk)
    if not error <= 10 * _tolerance(policy, chunk) * scale:
        raise ConfigurationError(
            f"expected rows that decode each for itself, got {type(policy).__name__}, whose first "
            f"row changes by {error:.3g} with the rest of its batch; put it in eval mode, "
            "modereg.policies.freeze(policy), or replace what looks at the whole batch"
        )
