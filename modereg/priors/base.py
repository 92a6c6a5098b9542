"""The interface of every distribution over codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchrl.data import TensorSpec

__all__ = ["Prior"]


class Prior(ABC):
    """A distribution over codes, from which specs, features and log-probabilities derive."""

    num_codes: int | None
    """Number of discrete codes K, or None for continuous codes."""

    feature_dim: int
    """Length D of the feature vector that networks read."""

    @property
    @abstractmethod
    def entropy(self) -> float:
        """H(p) in nats."""

    @abstractmethod
    def sample(self, batch_size: torch.Size, device: torch.device | None = None) -> Tensor:
        """Draw codes for a batch from the global torch generator."""

    @abstractmethod
    def log_prob(self, latent: Tensor) -> Tensor:
        """Return log p(z) in nats, ``[*B]``."""

    @abstractmethod
    def features(self, latent: Tensor) -> Tensor:
        """Return what networks read of a code, ``[*B, D]`` float."""

    @abstractmethod
    def spec(self, batch_size: torch.Size, device: torch.device | None = None) -> TensorSpec:
        """Return the spec of a batch of codes."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return a JSON-able description; :func:`prior_from_config` reads it."""
