"""Subspaces of a policy's noise for :class:`~modereg.layout.Layout`, where few dimensions decide.

Steering writes coordinates u ``[k]`` in a basis P ``[N, k]``; the rest of the noise stays N(0, I)
(see :class:`~modereg.transforms.NoiseAction`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.devices import module_device
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.layout import Layout
from modereg.policies import GenerativePolicy

__all__ = ["NoiseBasis", "cosine_basis", "gradient_basis", "repeated_basis", "response_basis"]

_CLIP = 0.9
"""Quantile of the rows' norms to which longer rows are cut."""

_STEP = 0.1
"""Step of finite differences, in standard deviations of the noise."""

_PART = 16
"""States that are decoded at once."""


class NoiseBasis(NamedTuple):
    """A basis, and the spectrum that chose it.

    Attributes:
        basis: P, ``[N, k]`` with orthonormal columns, N the size of one noise.
        shares: share of each of the N directions in the spectrum, the largest first, ``[N]``.
    """

    basis: Tensor
    shares: Tensor

    @property
    def share(self) -> float:
        """Share of the spectrum that the basis holds."""
        return float(self.shares[: self.basis.shape[1]].sum())


def response_basis(
    policy: GenerativePolicy,
    observations: TensorDictBase,
    layout: Layout,
    *,
    rank: int | None = None,
    share: float = 0.9,
    most: int = 8,
    states: int = 64,
    probes: int = 32,
) -> NoiseBasis:
    """Return the directions of the noise that the played actions respond to most.

    At each of some states, under a noise from N(0, I), the derivative of the actions that are
    played is taken with respect to the noise: by backward passes, or, where the decoder has no
    gradient, by central differences. What follows is :func:`gradient_basis` on its rows. States,
    noises and probes are drawn from torch's global generator.

    Args:
        policy: the base policy, frozen.
        observations: what it reads, at states that it visits, ``[*B]``.
        layout: says which actions of a chunk are played.
        rank: k; None lets the spectrum choose.
        share: of the spectrum that k is to hold, unless ``rank`` is given.
        most: the largest such k.
        states: how many of the observations are used.
        probes: at each state, directions of the chunk that are followed back or, for differences,
            directions of the noise that are tried; with no more actions, or dimensions of the
            noise, than that, all are.

    Raises:
        ConfigurationError: if an option is out of range, or the played actions do not respond.
        NonFiniteError: if a response is not finite.
    """
    _check_counts(states=states, probes=probes)
    layout = layout.for_policy(policy)
    data = observations.select(*policy.observation_entries(observations), strict=False).reshape(-1)
    chosen = torch.randperm(len(data))[:states]
    data = data[chosen if data.device is None else chosen.to(data.device)]
    device = module_device(policy)
    data = data if device is None else data.to(device)
    noise = policy.draw_noise_for(data)
    played = slice(layout.offset, layout.offset + layout.played)
    parts = [(data[i : i + _PART], noise[i : i + _PART]) for i in range(0, len(data), _PART)]
    rows = torch.cat([_by_gradient(policy, played, probes, *part) for part in parts])
    if bool((rows != 0).any()):
        return _principal(rows, rank, share, most)
    rows = torch.cat([_by_differences(policy, played, probes, *part) for part in parts])
    return _principal(rows, rank, share, most, tried=probes)


def gradient_basis(
    gradients: Tensor, *, rank: int | None = None, share: float = 0.9, most: int = 8
) -> NoiseBasis:
    """Return the directions along which gradients with respect to the noise are largest.

    They are the leading eigenvectors of the mean of g g^T, where a g longer than the .9 quantile of
    all that are not zero is cut to it: else a few states near a discontinuity decide alone.

    Args:
        gradients: of anything, such as log Q or actions, ``[n, *noise_shape]``.
        rank: k; None takes the smallest that holds ``share`` of the spectrum, at most ``most``.
        share: in (0, 1].
        most: the largest k that the spectrum may choose.

    Raises:
        ConfigurationError: if an option is out of range, or all gradients are zero.
        NonFiniteError: if one is not finite.
    """
    return _principal(gradients.flatten(1), rank, share, most)


def cosine_basis(
    noise_shape: Sequence[int], frequencies: int, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the lowest cosines along a chunk (DCT-II) in each dimension of an action.

    Args:
        noise_shape: ``(H, ...)``, of noises with one row an action.
        frequencies: F in [1, H]; the lowest is constant along the chunk.
        dtype: of the basis; None is torch's default.

    Returns:
        The basis ``[N, F * N / H]``, the lowest frequency first.

    Raises:
        ShapeError: if the noise has no rows.
        ConfigurationError: if there are not so many frequencies.
    """
    if len(noise_shape) < 2:
        raise ShapeError(
            f"expected noise of shape (actions, dimensions), got {tuple(noise_shape)}, whose order "
            "along the chunk is not known; take response_basis"
        )
    actions = noise_shape[0]
    if not 1 <= frequencies <= actions:
        raise ConfigurationError(
            f"expected frequencies in [1, {actions}], the rows of the noise, got {frequencies}"
        )
    place = math.pi * (torch.arange(actions, dtype=torch.float64) + 0.5) / actions
    waves = torch.cos(place[:, None] * torch.arange(frequencies))
    each = torch.eye(math.prod(noise_shape[1:]), dtype=torch.float64)
    basis = torch.kron(waves / waves.norm(dim=0), each)
    return basis.to(torch.get_default_dtype() if dtype is None else dtype)


def repeated_basis(noise_shape: Sequence[int], *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the basis of noises that are the same at each action of a chunk, as DSRL steers them.

    Unlike there, what differs from action to action stays N(0, I) and is not zero.

    Args:
        noise_shape: ``(H, ...)``, of noises with one row an action.
        dtype: of the basis; None is torch's default.

    Raises:
        ShapeError: if the noise has no rows.
    """
    return cosine_basis(noise_shape, 1, dtype=dtype)


# --- rows of derivatives


def _played(policy: GenerativePolicy, data: TensorDictBase, played: slice, noise: Tensor) -> Tensor:
    return policy.decode_from(data, noise)[:, played].flatten(1)


def _by_gradient(
    policy: GenerativePolicy, played: slice, probes: int, data: TensorDictBase, noise: Tensor
) -> Tensor:
    """Return rows ``[n, N]`` by backward passes, zeros if no gradient reaches the noise."""
    leaf = noise.clone().requires_grad_()
    with torch.enable_grad():
        actions = _played(policy, data, played, leaf)
    if not actions.requires_grad:
        return torch.zeros_like(noise).flatten(1)
    rows = [
        torch.autograd.grad(actions, leaf, along, retain_graph=True, materialize_grads=True)[0]
        for along in _directions(actions.detach(), probes)
    ]
    return torch.cat(rows).flatten(1)


@torch.no_grad()
def _by_differences(
    policy: GenerativePolicy, played: slice, probes: int, data: TensorDictBase, noise: Tensor
) -> Tensor:
    """Return rows ``[n, N]`` by central differences, projected on the directions tried."""
    respond = partial(_played, policy, data, played)
    states, size = len(noise), noise[0].numel()
    place: dict[str, Any] = {"device": noise.device, "dtype": torch.float32}
    if size <= probes:
        tried = torch.eye(size, **place).expand(states, size, size)
    else:
        tried = torch.linalg.qr(torch.randn(states, size, probes, **place)).Q.mT
    slopes = []
    for direction in tried.to(noise.dtype).unbind(1):
        shift = _STEP * direction.reshape(noise.shape)
        slopes.append((respond(noise + shift) - respond(noise - shift)) / (2 * _STEP))
    actions = torch.stack(slopes, -1)  # [n, actions, directions]
    along = _directions(actions[..., 0], probes)
    rows = torch.einsum("pna,nad,ndi->pni", along, actions, tried.to(actions.dtype))
    return rows.flatten(0, 1)


def _directions(actions: Tensor, probes: int) -> Tensor:
    """Return directions of actions ``[n, a]``, ``[p, n, a]``: each by itself, or random ones."""
    states, size = actions.shape
    if size > probes:
        return torch.randn((probes, states, size), device=actions.device).to(actions.dtype)
    return torch.eye(size, device=actions.device, dtype=actions.dtype)[:, None].expand(
        size, states, size
    )


# --- the spectrum


def _principal(
    rows: Tensor, rank: int | None, share: float, most: int, tried: int | None = None
) -> NoiseBasis:
    """Return the leading directions of rows ``[n, N]``.

    Rows that were projected on ``tried`` random directions each have a floor in every direction,
    which is taken off.
    """
    _check_counts(most=most, rank=1 if rank is None else rank)
    size = rows.shape[1]
    if not 0.0 < share <= 1.0 or (rank or 1) > size:
        raise ConfigurationError(
            f"expected a share in (0, 1] and a rank of at most {size}, the size of the noise, got "
            f"{share} and {rank}"
        )
    clipped = _clip(rows.detach().cpu().double())
    values, vectors = torch.linalg.eigh(clipped.mT @ clipped / len(clipped))
    values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
    if tried is not None and tried < size:
        floor = (size - tried) / ((size - 1) * (size + 2)) * values.sum()
        values = (values - floor).clamp_min(0.0)
    shares = values / values.sum()
    if rank is None:
        below = int((shares.cumsum(0) < share - 1e-6).sum())
        rank = min(below + 1, most, size)
    dtype = rows.dtype if rows.dtype is torch.float64 else torch.float32
    return NoiseBasis(vectors[:, :rank].contiguous().to(rows.device, dtype), shares)


def _clip(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=1)
    if not bool(torch.isfinite(norms).all()):
        raise NonFiniteError(
            "expected finite derivatives with respect to the noise, got NaN or infinity; look at "
            "the policy's chunks and observations"
        )
    if not bool((norms > 0).any()):
        raise ConfigurationError(
            "expected played actions that respond to the noise, got derivatives of zero alone; "
            "check which actions of a chunk are played, or take cosine_basis"
        )
    limit = norms[norms > 0].quantile(_CLIP)
    return rows * (limit / norms.clamp_min(limit))[:, None]


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"expected {name} of at least 1, got {value!r}")
