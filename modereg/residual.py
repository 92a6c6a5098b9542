r"""Bounded residuals on what the base plays, of a chunk or of a step: :math:`a' = a + \delta`.

For behaviours that no noise reaches: what the environment does after the noise was drawn is met by
moving the chunk itself, behind the same codes (as in Policy Decorator, arXiv 2412.13630, whose
residual is bounded too), and what it does after the chunk was decoded by moving each action when
it is played (as in ResiP, arXiv 2407.16677, and ResFiT, arXiv 2509.19301).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.devices import module_device
from modereg.errors import ConfigurationError, ShapeError
from modereg.networks import MLP
from modereg.steering import SteeringPolicy

__all__ = ["ChunkResidual", "StepResidual"]


class ChunkResidual(nn.Module):
    r"""Moves what is played of a chunk along the directions in which the base's own chunks vary.

    .. math:: \delta(s, z) = D^T u(s, z), \quad u = \frac{b m}{\sqrt{b^2 + |m|^2}},

    where the rows of D are those directions, each of the length of one standard deviation
    (:attr:`~modereg.discovery.chunk_features.ChunkFeatures.directions`), and m is a network's:
    :math:`|u| < b` says how far a chunk leaves what the base itself does. At first, and for codes
    that are not steered, it is zero.

    Args:
        network: a steering policy whose mean "noise" is m, ``[k]``.
        directions: D, ``[k, e * A]``.
        bound: b.
        offset: first played action of a chunk.

    Raises:
        ConfigurationError: if the bound is not positive and finite.
        ShapeError: if the directions are not as many as m has numbers.
    """

    directions: Tensor

    def __init__(
        self, network: SteeringPolicy, directions: Tensor, bound: float, offset: int = 0
    ) -> None:
        super().__init__()
        if not 0 < bound < math.inf:
            raise ConfigurationError(f"expected a bound above 0 and finite, got {bound}")
        if directions.ndim != 2 or tuple(network.noise_shape) != tuple(directions.shape[:1]):
            raise ShapeError(
                f"expected directions [k, e * A] with k of {tuple(network.noise_shape)}, got "
                f"{tuple(directions.shape)}"
            )
        self.network, self.bound, self.offset = network, bound, offset
        self.register_buffer("directions", directions)

    @classmethod
    def at_zero(
        cls,
        observation_keys: Sequence[NestedKey],
        observation_dim: int,
        latent_dim: int,
        directions: Tensor,
        *,
        bound: float,
        offset: int = 0,
        hidden: Sequence[int] = (128, 128),
        octaves: int = 3,
        latent_key: NestedKey = keys.LATENT_FEATURES,
        log_std_range: tuple[float, float] = (-3.0, 0.3),
    ) -> Self:
        """Return one that changes nothing yet.

        Args:
            observation_keys: entries that it reads besides the code, each ``[*B, ...]``.
            observation_dim: their total length once flattened.
            latent_dim: length of the code's features.
            directions: D, ``[k, e * A]``.
            bound: b.
            offset: first played action of a chunk.
            hidden: widths of the MLP.
            octaves: of its observations' :class:`~modereg.networks.FourierFeatures`.
            latent_key: entry of the code's features.
            log_std_range: of the network's "noise", where draws of it are played.
        """
        size, number = observation_dim + latent_dim, len(directions)
        layers = MLP(
            size, number, hidden, octaves=octaves, plain_features=latent_dim, zero_init=True
        )
        network = SteeringPolicy(
            observation_keys,
            observation_dim,
            latent_dim,
            (number,),
            network=layers,
            latent_key=latent_key,
            log_std_range=log_std_range,
        )
        return cls(network, directions, bound, offset)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that it reads."""
        return [*self.network.observation_keys, self.network.latent_key]

    def shift(self, tensordict: TensorDictBase) -> Tensor:
        """Return u, ``[*B, k]``.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
        """
        return self.bounded(self.network.distribution(tensordict).mean)

    def bounded(self, mean: Tensor) -> Tensor:
        """Return u, ``[*B, k]``, of m, ``[*B, k]``."""
        length = mean.square().sum(-1, keepdim=True)
        return self.bound * mean / (self.bound**2 + length).sqrt()

    def forward(self, tensordict: TensorDictBase, chunk: Tensor) -> Tensor:
        """Return the chunk ``[*B, H, A]`` with the residual on what is played of it.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
            ShapeError: if the chunk is shorter than what is played.
        """
        device = module_device(self)
        move = self.shift(tensordict.select(*self.in_keys, strict=False).to(device))
        return self.moved(chunk, move)

    def moved(self, chunk: Tensor, move: Tensor) -> Tensor:
        """Return the chunk ``[*B, H, A]`` with u, ``[*B, k]``, on what is played of it.

        Raises:
            ShapeError: if the chunk is shorter than what is played.
        """
        width = chunk.shape[-1]
        played = (move @ self.directions).unflatten(-1, (-1, width)).to(chunk)
        end = self.offset + played.shape[-2]
        if chunk.shape[-2] < end:
            raise ShapeError(
                f"expected chunks of at least {end} actions, of which {self.offset} to {end - 1} "
                f"are moved, got {tuple(chunk.shape)}"
            )
        moved = chunk.clone()
        moved[..., self.offset : end, :] += played
        return moved

    def extra_repr(self) -> str:
        """Name the sizes and the bound."""
        return f"directions={tuple(self.directions.shape)}, bound={self.bound}"


class StepResidual(ChunkResidual):
    r"""Moves each action when it is played, seeing what is observed then and the base's action.

    .. math:: a'_t = a_t + D^T u(s_t, a_t, z), \quad u = \frac{b m}{\sqrt{b^2 + |m|^2}},

    which is the residual of a chunk of one action. An environment plays it by
    :meth:`~modereg.transforms.ActionChunk.set_mover`.

    Args:
        network: reads the base's action, ``[*B, 1, A]``, as the last of its observations.
        directions: D, ``[k, A]``.
        bound: b.
    """

    @property
    def base_key(self) -> NestedKey:
        """Entry of the base's action."""
        return self.network.observation_keys[-1]

    @torch.no_grad()
    def move(self, state: TensorDictBase, action: Tensor, index: int = 0) -> Tensor:
        """Return what is played, ``[*B, A]``, not clipped.

        Args:
            state: what is observed now, and the code's features, ``[*B]``.
            action: the base's, ``[*B, A]``.
            index: is not looked at.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
        """
        chunk = action.unsqueeze(-2)
        read = state.select(*self.in_keys, strict=False).set(self.base_key, chunk)
        return self(read, chunk).squeeze(-2)
