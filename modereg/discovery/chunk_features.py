"""What a played chunk adds to what its observation already says: a few whitened components."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChunkFeatures"]

RIDGE = 1e-6


class ChunkFeatures(nn.Module):
    """Whitened principal components of played chunks, less what observations say linearly.

    A ridge regression of the flat chunk on the observation leaves a residual, which is scaled to
    unit variance per entry; its components of the largest variance are kept until they hold a
    share of it. Of a chunk of 16 x 7 actions that is a handful of numbers.

    Args:
        observations: ``[n, d]``.
        chunks: played chunks, ``[n, e, A]``.
        share: of the variance that is kept, in (0, 1].
        most: components at most.
    """

    shift: Tensor
    scale: Tensor
    linear: Tensor
    components: Tensor
    directions: Tensor
    """What a unit of each component is of a flat chunk, ``[k, e * A]``: adding ``u @ directions``
    to a chunk adds u to its features, exactly."""

    def __init__(
        self, observations: Tensor, chunks: Tensor, *, share: float = 0.99, most: int = 16
    ) -> None:
        super().__init__()
        flat = chunks.flatten(1)
        self.register_buffer("shift", observations.mean(0))
        spread = observations.std(0)
        self.register_buffer("scale", torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
        inputs = self._inputs(observations)
        gram = inputs.mT @ inputs / len(inputs)
        ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self.register_buffer(
            "linear", torch.linalg.solve(gram + ridge, inputs.mT @ flat / len(flat))
        )
        rest = flat - inputs @ self.linear
        spread = rest.std(0).clamp_min(1e-6)
        scaled = rest / spread
        values, directions = torch.linalg.eigh(scaled.mT @ scaled / len(scaled))
        variances, directions = values.flip(0).clamp_min(0.0), directions.flip(1)
        held = (variances / variances.sum().clamp_min(1e-12)).cumsum(0)
        kept = min(int((held < share).sum()) + 1, most, len(variances))
        deviation = variances[:kept].sqrt().clamp_min(1e-6)
        kept_ones = directions[:, :kept]
        self.register_buffer("components", kept_ones / spread[:, None] / deviation)
        self.register_buffer("directions", (kept_ones * deviation).mT * spread)

    @property
    def out_features(self) -> int:
        """Number of components."""
        return self.components.shape[1]

    def _inputs(self, observations: Tensor) -> Tensor:
        standard = (observations - self.shift) / self.scale
        return torch.cat([standard, torch.ones_like(standard[..., :1])], -1)

    def forward(self, observations: Tensor, chunks: Tensor) -> Tensor:
        """Return components ``[*B, k]`` of chunks ``[*B, e, A]`` at observations ``[*B, d]``."""
        rest = chunks.flatten(-2) - self._inputs(observations) @ self.linear
        return rest @ self.components
