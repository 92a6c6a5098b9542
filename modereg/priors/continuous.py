"""Continuous codes: normal, or uniform on a sphere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional as F
from torchrl.data import TensorSpec, Unbounded

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.priors.base import Prior

__all__ = ["NormalPrior", "SphericalPrior"]


class NormalPrior(Prior):
    """Continuous codes ``z ~ N(0, I)``; their features are the codes themselves."""

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ConfigurationError(f"expected a positive code length, got {dim}")
        self.num_codes, self.feature_dim = None, dim

    def _distribution(self) -> Independent:
        return Independent(Normal(torch.zeros(self.feature_dim), torch.ones(self.feature_dim)), 1)

    @property
    def entropy(self) -> float:
        """Differential entropy d/2 log(2 pi e), nats."""
        return float(self._distribution().entropy())

    def sample(self, batch_size: torch.Size, device: torch.device | None = None) -> Tensor:
        """Draw codes ``[*B, dim]`` float32."""
        return torch.randn((*batch_size, self.feature_dim), device=device)

    def log_prob(self, latent: Tensor) -> Tensor:
        """Return the log density, ``[*B]``."""
        return -0.5 * (latent.square() + math.log(2 * math.pi)).sum(-1)

    def features(self, latent: Tensor) -> Tensor:
        """Return the code itself."""
        return latent

    def spec(self, batch_size: torch.Size, device: torch.device | None = None) -> TensorSpec:
        """Return an ``Unbounded`` spec of shape ``[*B, dim]``."""
        return Unbounded(shape=(*batch_size, self.feature_dim), device=device)

    def to_config(self) -> dict[str, Any]:
        """Return ``{"kind": "normal", "dim": d}``."""
        return {"kind": "normal", "dim": self.feature_dim}

    def __repr__(self) -> str:
        """Name the length of the code."""
        return f"NormalPrior(dim={self.feature_dim})"


class SphericalPrior(Prior):
    r"""Continuous codes that are uniform on the unit sphere of :math:`R^d`; their own features.

    Args:
        dim: length d of the code, at least 2.

    Raises:
        ConfigurationError: if the code is shorter.
    """

    def __init__(self, dim: int) -> None:
        if dim < 2:
            raise ConfigurationError(
                f"expected a code length of at least 2, got {dim}; a sphere of one dimension is "
                "two points: give CategoricalPrior(2)"
            )
        self.num_codes, self.feature_dim = None, dim

    @property
    def entropy(self) -> float:
        """Differential entropy, the log of the sphere's area, nats; negative from d = 19 on."""
        return functional.sphere_log_area(self.feature_dim)

    def sample(self, batch_size: torch.Size, device: torch.device | None = None) -> Tensor:
        """Draw unit vectors ``[*B, dim]`` float32."""
        return F.normalize(torch.randn((*batch_size, self.feature_dim), device=device), dim=-1)

    def log_prob(self, latent: Tensor) -> Tensor:
        """Return the log density by area, ``[*B]``: -inf off the sphere, by more than 1e-3."""
        far = (torch.linalg.vector_norm(latent, dim=-1) - 1.0).abs() > 1e-3
        density = torch.full_like(far, -self.entropy, dtype=latent.dtype)
        return density.masked_fill(far, -math.inf)

    def features(self, latent: Tensor) -> Tensor:
        """Return the code itself."""
        return latent

    def spec(self, batch_size: torch.Size, device: torch.device | None = None) -> TensorSpec:
        """Return an ``Unbounded`` spec of shape ``[*B, dim]``; TorchRL has none of a sphere."""
        return Unbounded(shape=(*batch_size, self.feature_dim), device=device)

    def to_config(self) -> dict[str, Any]:
        """Return ``{"kind": "spherical", "dim": d}``."""
        return {"kind": "spherical", "dim": self.feature_dim}

    def __repr__(self) -> str:
        """Name the length of the code."""
        return f"SphericalPrior(dim={self.feature_dim})"
