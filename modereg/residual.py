r"""A bounded residual on the base's chunks: :math:`a' = a + \delta(s, z)`.

For behaviours that no noise reaches: what the environment does after the noise was drawn is met by
moving the chunk itself, behind the same codes (as in Policy Decorator, arXiv 2412.13630, whose
residual is bounded too).
"""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.devices import module_device
from modereg.errors import ShapeError
from modereg.networks import MLP
from modereg.steering import SteeringPolicy

__all__ = ["ChunkResidual"]

BOUND = 3.0
"""Standard deviations of the base's own chunks by which a direction is moved at most."""


class ChunkResidual(nn.Module):
    r"""Moves what is played of a chunk along the directions in which the base's own chunks vary.

    .. math:: \delta(s, z) = D^T u(s, z), \quad |u_i| < b,

    where the rows of D are those directions, each of the length of one standard deviation
    (:attr:`~modereg.discovery.chunk_features.ChunkFeatures.directions`): b says how far, in any of
    them, a chunk leaves what the base itself does. At first, and for codes that are not steered,
    it is zero.

    Args:
        shift: a steering policy whose "noise" is u, ``[k]``; its mean is what counts.
        directions: D, ``[k, e * A]``.
        offset: first played action of a chunk.

    Raises:
        ShapeError: if the directions are not as many as u has numbers.
    """

    directions: Tensor

    def __init__(self, shift: SteeringPolicy, directions: Tensor, offset: int = 0) -> None:
        super().__init__()
        if directions.ndim != 2 or tuple(shift.noise_shape) != tuple(directions.shape[:1]):
            raise ShapeError(
                f"expected directions [k, e * A] with k of {tuple(shift.noise_shape)}, got "
                f"{tuple(directions.shape)}"
            )
        self.policy, self.offset = shift, offset
        self.register_buffer("directions", directions)

    @classmethod
    def at_zero(
        cls,
        observation_keys: Sequence[NestedKey],
        observation_dim: int,
        latent_dim: int,
        directions: Tensor,
        *,
        offset: int = 0,
        bound: float = BOUND,
        hidden: Sequence[int] = (128, 128),
        octaves: int = 3,
        latent_key: NestedKey = keys.LATENT_FEATURES,
    ) -> ChunkResidual:
        """Return one that changes nothing yet.

        Args:
            observation_keys: entries that it reads besides the code, each ``[*B, ...]``.
            observation_dim: their total length once flattened.
            latent_dim: length of the code's features.
            directions: D, ``[k, e * A]``.
            offset: first played action of a chunk.
            bound: b.
            hidden: widths of the MLP.
            octaves: of its observations' :class:`~modereg.networks.FourierFeatures`.
            latent_key: entry of the code's features.
        """
        size, number = observation_dim + latent_dim, len(directions)
        network = MLP(
            size, number, hidden, octaves=octaves, plain_features=latent_dim, zero_init=True
        )
        shift = SteeringPolicy(
            observation_keys,
            observation_dim,
            latent_dim,
            (number,),
            network=network,
            latent_key=latent_key,
            mean_bound=bound,
        )
        return cls(shift, directions, offset)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that it reads."""
        return [*self.policy.observation_keys, self.policy.latent_key]

    def shift(self, tensordict: TensorDictBase) -> Tensor:
        """Return u, ``[*B, k]``.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
        """
        return self.policy.distribution(tensordict).mean

    def forward(self, tensordict: TensorDictBase, chunk: Tensor) -> Tensor:
        """Return the chunk ``[*B, H, A]`` with the residual on what is played of it.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
            ShapeError: if the chunk is shorter than what is played.
        """
        device = module_device(self)
        move = self.shift(tensordict.select(*self.in_keys, strict=False).to(device))
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
        """Name the sizes."""
        return f"directions={tuple(self.directions.shape)}, offset={self.offset}"
