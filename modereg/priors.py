r"""Priors :math:`p(z)` over the latent code of an episode."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F
from torchrl.data import Categorical, TensorSpec, Unbounded

from modereg.errors import ConfigurationError

__all__ = ["CategoricalPrior", "NormalPrior", "Prior", "as_prior", "prior_from_config"]


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
        self.probs = _checked_probs(probs)
        self.num_codes = self.feature_dim = self.probs.numel()
        self._log_probs = self.probs.log()
        self._entropy = float(-torch.special.xlogy(self.probs, self.probs).sum())
        self._largest_surprise = float(-self._log_probs[self.probs > 0].min())

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
        """log p(z) of every code, nats, ``[K]`` float64; -inf where p(z) is 0."""
        return self._log_probs

    def sample(self, batch_size: torch.Size, device: torch.device | None = None) -> Tensor:
        """Draw codes ``[*B]`` int64."""
        draws = torch.multinomial(self.probs, max(batch_size.numel(), 1), replacement=True)
        return draws[: batch_size.numel()].reshape(batch_size).to(device or draws.device)

    def log_prob(self, latent: Tensor) -> Tensor:
        """Return log p(z), ``[*B]`` float32."""
        return self._log_probs.to(latent.device, torch.float32)[latent]

    def features(self, latent: Tensor) -> Tensor:
        """Return the one-hot code, ``[*B, K]`` float32."""
        return F.one_hot(latent, self.feature_dim).to(torch.float32)

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


class NormalPrior(Prior):
    """Continuous codes ``z ~ N(0, I)``; their features are the codes themselves.

    Args:
        dim: length of the code.
    """

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
        return torch.randn((*batch_size, self.feature_dim)).to(device or "cpu")

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


def as_prior(prior: int | Distribution | Prior) -> Prior:
    """Make a :class:`Prior` from a number of codes, a torch distribution or a prior.

    Raises:
        ConfigurationError: if the distribution is of a kind that has no features defined.
    """
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, int):
        return CategoricalPrior(prior)
    if isinstance(prior, CategoricalDistribution) and not prior.batch_shape:
        return CategoricalPrior(prior.probs)
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        base = prior.base_dist
        if len(base.loc.shape) == 1 and bool((base.loc == 0).all() & (base.scale == 1).all()):
            return NormalPrior(base.loc.numel())
    raise ConfigurationError(
        "expected the number of codes, a Categorical, a standard Independent(Normal) or a "
        f"modereg.priors.Prior, got {prior!r}; subclass Prior for another distribution"
    )


def prior_from_config(config: dict[str, Any]) -> Prior:
    """Rebuild a prior from :meth:`Prior.to_config`.

    Raises:
        ConfigurationError: if the kind is unknown.
    """
    if config.get("kind") == "categorical":
        return CategoricalPrior(torch.tensor(config["probs"], dtype=torch.float64))
    if config.get("kind") == "normal":
        return NormalPrior(int(config["dim"]))
    raise ConfigurationError(
        f"expected a prior of kind 'categorical' or 'normal', got {config.get('kind')!r}"
    )


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
