"""Discrete codes with probabilities that stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchrl.data import Categorical, TensorSpec

from modereg.errors import ConfigurationError
from modereg.priors.base import Prior

__all__ = ["CategoricalPrior"]


class CategoricalPrior(Prior):
    """Discrete codes in ``[0, K)``; their features are one-hot.

    Args:
        probs: the K probabilities, or an int K for the uniform prior.

    Raises:
        ConfigurationError: if the probabilities are not a distribution.
    """

    num_codes: int

    def __init__(self, probs: int | Tensor) -> None:
        if isinstance(probs, int):
            if probs < 1:
                raise ConfigurationError(
                    f"expected at least one code, got {probs}; give a positive number of codes"
                )
            probs = torch.full((probs,), 1.0 / probs, dtype=torch.float64)
        self.num_codes = self.feature_dim = len(_checked_probs(probs))
        self.weigh(probs)

    def weigh(self, probs: Tensor) -> None:
        """Draw codes with other probabilities from now on, for all who share this prior.

        Args:
            probs: of the K codes.

        Raises:
            ConfigurationError: if they are not a distribution over K codes.
        """
        checked = _checked_probs(probs)
        if len(checked) != self.num_codes:
            raise ConfigurationError(
                f"expected probabilities of {self.num_codes} codes, got {len(checked)}"
            )
        self._probs, self._log_probs = checked, checked.log()
        self._entropy = entropy_of(self._log_probs)
        self._largest_surprise = largest_surprise_of(self._log_probs)

    @property
    def probs(self) -> Tensor:
        """p(z) of every code, ``[K]`` float64 on the CPU."""
        return self._probs

    @property
    def entropy(self) -> float:
        """H(p) = - sum p log p, nats."""
        return self._entropy

    @property
    def largest_surprise(self) -> float:
        """The largest -log p(z) of a code that can be drawn, nats; log K for the uniform prior."""
        return self._largest_surprise

    @property
    def log_probs(self) -> Tensor:
        """log p(z) of every code, nats, ``[K]`` float64 on the CPU; -inf where p(z) is 0."""
        return self._log_probs

    def sample(self, batch_size: torch.Size, device: torch.device | None = None) -> Tensor:
        """Draw codes ``[*B]`` int64."""
        draws = torch.multinomial(self.probs, max(batch_size.numel(), 1), replacement=True)
        return draws[: batch_size.numel()].reshape(batch_size).to(device or draws.device)

    def log_prob(self, latent: Tensor) -> Tensor:
        """Return log p(z), ``[*B]`` float32.

        Raises:
            ConfigurationError: if a code is not an integer in ``[0, K)``.
        """
        self._check_range(latent)
        return self.log_probs.to(latent.device, torch.float32)[latent]

    def features(self, latent: Tensor) -> Tensor:
        """Return the one-hot code, ``[*B, K]`` float32.

        Raises:
            ConfigurationError: if a code is not an integer in ``[0, K)``.
        """
        self._check_range(latent)
        return F.one_hot(latent.long(), self.feature_dim).to(torch.float32)

    def _check_range(self, latent: Tensor) -> None:
        """Refuse what would be read from the end, or end an accelerator's process."""
        if latent.is_floating_point() or latent.dtype == torch.bool:
            raise ConfigurationError(f"expected integer codes, got {latent.dtype}")
        if not latent.numel() or latent.is_meta:
            return
        low, high = torch.stack(latent.aminmax()).tolist()
        if low < 0 or high >= self.num_codes:
            raise ConfigurationError(
                f"expected codes in [0, {self.num_codes}), got some between {low} and {high}; "
                "sample codes from the same prior"
            )

    def spec(self, batch_size: torch.Size, device: torch.device | None = None) -> TensorSpec:
        """Return a ``Categorical(K)`` spec of shape ``[*B]``."""
        return Categorical(self.feature_dim, shape=batch_size, dtype=torch.int64, device=device)

    def to_config(self) -> dict[str, Any]:
        """Return ``{"kind": "categorical", "probs": [...]}``."""
        return {"kind": "categorical", "probs": self.probs.tolist()}

    def __repr__(self) -> str:
        """Name the number of codes and whether they are equally likely."""
        uniform = bool((self.probs == self.probs[0]).all())
        return f"CategoricalPrior(num_codes={self.num_codes}, uniform={uniform})"


def entropy_of(log_probs: Tensor) -> float:
    """Return H(p), nats, of log-probabilities ``[K]``."""
    return float(torch.special.entr(log_probs.exp()).sum())


def largest_surprise_of(log_probs: Tensor) -> float:
    """Return the largest -log p(z), nats, of a code that can be drawn, of ``[K]``."""
    return float(-log_probs[log_probs > -torch.inf].min())


def _checked_probs(probs: Tensor) -> Tensor:
    probs = torch.as_tensor(probs, dtype=torch.float64).detach().cpu()
    if probs.ndim != 1 or not bool(torch.isfinite(probs).all()) or bool((probs < 0).any()):
        raise ConfigurationError(
            f"expected a vector of finite, non-negative probabilities, got {probs.tolist()}"
        )
    if abs(float(probs.sum()) - 1.0) > 1e-4:
        raise ConfigurationError(
            f"expected probabilities that sum to one, got a sum of {float(probs.sum()):.6g}; "
            "divide them by their sum"
        )
    return probs / probs.sum()
