"""A tiny generative policy and the check of the contract that every policy keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.policies import GenerativePolicy
from modereg.testing._expect import expect

__all__ = ["TinyPolicy", "check_generative_policy"]


class TinyPolicy(GenerativePolicy):
    """``tanh(A w + B o)``, with A and B fixed by a seed and frozen.

    Args:
        observation_dim: total length of the observations.
        chunk_shape: ``(H, A)``.
        noise_shape: shape of one noise; None takes the chunk's.
        observation_keys: entries that it reads.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.
        scale: size of the largest action.
        seed: of A and B; torch's global generator is left alone.
        dtype: type of A and B.
    """

    def __init__(
        self,
        observation_dim: int,
        chunk_shape: Sequence[int] = (4, 2),
        noise_shape: Sequence[int] | None = None,
        *,
        observation_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
        scale: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            observation_keys=observation_keys,
            noise_shape=chunk_shape if noise_shape is None else noise_shape,
            chunk_shape=chunk_shape,
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        generator = torch.Generator().manual_seed(seed)
        out, size = self.chunk_shape.numel(), self.noise_shape.numel()
        noise_map = torch.randn((out, size), generator=generator) / size**0.5
        self.noise_map = nn.Parameter(noise_map.to(dtype), requires_grad=False)
        observation_map = 0.1 * torch.randn((out, observation_dim), generator=generator)
        self.observation_map = nn.Parameter(observation_map.to(dtype), requires_grad=False)
        self.scale = scale

    def decode(self, noise: Tensor, *observations: Tensor) -> Tensor:
        """Return the chunk, ``[*B, H, A]``."""
        flat = noise.flatten(-len(self.noise_shape))
        observation = torch.cat(observations, -1)
        chunk = flat @ self.noise_map.mT + observation @ self.observation_map.mT
        return self.scale * chunk.tanh().unflatten(-1, tuple(self.chunk_shape))


def check_generative_policy(
    policy: GenerativePolicy,
    tensordict: TensorDictBase,
    *,
    dtype: torch.dtype | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Check that a policy keeps the contract of :class:`~modereg.policies.GenerativePolicy`.

    It must decode noise deterministically, into a finite chunk of the declared shape on the
    noise's device and of its dtype, each row independently of the others, under any number of batch
    dimensions, differentiably in the noise, and without a graph where neither the noise nor a
    parameter asks for one. What decides whether it can be steered is checked before conventions.

    Args:
        policy: the policy.
        tensordict: observations of at least two rows, ``[B]``.
        dtype: type of the noise; None is torch's default.
        rtol: relative tolerance between decodes.
        atol: absolute tolerance between decodes.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    batch = tensordict.batch_size
    expect(
        len(batch) == 1 and batch[0] >= 2,
        f"give the check observations of batch [B] with B >= 2, not {tuple(batch)}",
    )
    noise = policy.draw_noise(batch, device=tensordict.device, dtype=dtype)
    with torch.no_grad():
        chunk = policy.decode_from(tensordict, noise)
    close = partial(torch.allclose, rtol=rtol, atol=atol)
    subject = _Subject(type(policy).__name__, policy, tensordict, noise, chunk, close)
    for check in (
        _check_form,
        _check_determinism,
        _check_rows,
        _check_gradient,
        _check_batches,
        _check_forward,
        _check_conventions,
    ):
        check(subject)


class _Subject(NamedTuple):
    """A policy with observations ``[B]``, a noise, and what it decodes from them."""

    name: str
    policy: GenerativePolicy
    tensordict: TensorDictBase
    noise: Tensor
    chunk: Tensor
    close: Callable[[Tensor, Tensor], bool]


def _check_form(subject: _Subject) -> None:
    name, policy, _, noise, chunk, _ = subject
    expected = (*noise.shape[:1], *policy.chunk_shape)
    expect(
        tuple(chunk.shape) == expected,
        f"{name} decoded a chunk of shape {tuple(chunk.shape)}, where it declares {expected}",
    )
    expect(bool(torch.isfinite(chunk).all()), f"{name} decoded finite noise into NaN or infinity")


def _check_conventions(subject: _Subject) -> None:
    name, _, _, noise, chunk, _ = subject
    expect(
        chunk.dtype == noise.dtype,
        f"{name} decoded {noise.dtype} noise into {chunk.dtype}; return chunk.to(noise.dtype)",
    )
    expect(
        chunk.device == noise.device,
        f"{name} decoded noise on {noise.device} into a chunk on {chunk.device}",
    )


def _check_determinism(subject: _Subject) -> None:
    name, policy, tensordict, noise, chunk, close = subject
    with torch.no_grad(), torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            again = policy.decode_from(tensordict, noise)
            expect(
                close(again, chunk),
                f"{name} is not deterministic in the noise: two decodes of one noise differ by "
                f"{float((again - chunk).abs().max()):.3g}; use a deterministic sampler (DDIM in "
                "place of DDPM) and switch dropout off by .eval()",
            )
        other = policy.decode_from(tensordict, policy.draw_noise(noise.shape[:1]).to(noise))
    expect(
        not close(other, chunk),
        f"{name} does not depend on the noise: two noises decode into one chunk; start the sampler "
        "from the noise that decode is given, not from zeros or a draw of its own",
    )


def _check_rows(subject: _Subject) -> None:
    name, policy, tensordict, noise, chunk, close = subject
    with torch.no_grad():
        backwards = torch.arange(len(noise) - 1, -1, -1, device=noise.device)
        flipped = policy.decode_from(tensordict[backwards], noise[backwards])[backwards]
        single = policy.decode_from(tensordict[:1], noise[:1])
    for rows, part in ((flipped, chunk), (single, chunk[:1])):
        expect(
            close(rows, part),
            f"{name} does not decode rows independently: a row changes with the rest of its batch "
            f"by {float((rows - part).abs().max()):.3g}; call .eval() where BatchNorm is in train "
            "mode, and take no mean, maximum or sort over the batch",
        )


def _check_batches(subject: _Subject) -> None:
    """Decode with one more batch dimension, and with none, as rollouts and single steps do."""
    name, policy, tensordict, noise, chunk, close = subject
    rows = tensordict.select(*policy.observation_entries(tensordict))
    cases = {
        "two batch dimensions, [B, 1, ...]": (rows.unsqueeze(1), noise.unsqueeze(1), 1),
        "no batch dimension": (rows[0], noise[0], None),
    }
    for what, (data, one, dim) in cases.items():
        expected = chunk[0] if dim is None else chunk.unsqueeze(dim)
        sentence = (
            f"{name} does not decode observations of {what}, though the contract is [*B, ...]: "
            "flatten the batch within decode and restore it after, or index from the end (-1)"
        )
        with torch.no_grad():
            try:
                found = policy.decode_from(data, one)
            except Exception as error:  # whatever the policy's own code raises
                raise AssertionError(f"{sentence} ({' '.join(str(error).split())})") from error
        expect(found.shape == expected.shape and close(found, expected), sentence)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _check_gradient(subject: _Subject) -> None:
    name, policy, tensordict, noise, chunk, _ = subject
    with _frozen(policy):
        expect(
            not policy.decode_from(tensordict, noise).requires_grad,
            f"{name} builds a graph though neither its parameters nor the noise require gradients",
        )
        leaf = noise.clone().requires_grad_()
        chunk = policy.decode_from(tensordict, leaf)
        expect(
            chunk.requires_grad,
            f"{name} is not differentiable in the noise: it cuts the graph; remove no_grad, "
            "detach, numpy and .item() from decode, and choose no action by argmax or rounding",
        )
        (gradient,) = torch.autograd.grad(chunk.sum(), leaf, allow_unused=True)
    usable = gradient is not None and bool(torch.isfinite(gradient).all())
    expect(
        usable and bool((gradient != 0).any()),
        f"{name} passes no finite, non-zero gradient to the noise: its chunk is constant around it "
        "(argmax, rounding, a sign or a clamp that is always active) or its gradient overflows; "
        "decode by smooth operations",
    )


def _check_forward(subject: _Subject) -> None:
    name, policy, tensordict, noise, chunk, close = subject
    data = TensorDict({}, tensordict.batch_size, device=tensordict.device)
    data.update(tensordict.select(*policy.observation_entries(tensordict)))
    with torch.no_grad():
        drawn = policy(data.copy())
        given = policy(data.copy().set(policy.noise_key, noise))
    expect(
        drawn.get(policy.chunk_key, None) is not None,
        f"{name} does not write {policy.chunk_key!r} where the noise is missing",
    )
    expect(
        close(given.get(policy.chunk_key), chunk),
        f"{name} writes another chunk in forward than decode returns",
    )
