"""Priors from what a user has: a number, a torch distribution, a saved description."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Categorical, Distribution, Independent, Normal

from modereg.errors import ConfigurationError
from modereg.priors.base import Prior
from modereg.priors.categorical import CategoricalPrior
from modereg.priors.continuous import NormalPrior, SphericalPrior
from modereg.priors.learned import LearnedPrior

__all__ = ["as_prior", "prior_from_config"]


def as_prior(prior: int | Distribution | Prior) -> Prior:
    """Make a :class:`Prior` from a number of codes, a torch distribution or a prior.

    Raises:
        ConfigurationError: if the distribution is of a kind that has no features defined.
    """
    if isinstance(prior, Prior):
        return prior
    if isinstance(prior, int):
        return CategoricalPrior(prior)
    if isinstance(prior, Categorical) and not prior.batch_shape:
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
    kind = config.get("kind")
    if kind == "categorical":
        return CategoricalPrior(torch.tensor(config["probs"], dtype=torch.float64))
    if kind == "learned":
        return LearnedPrior(torch.tensor(config["logits"], dtype=torch.float64))
    if kind == "normal":
        return NormalPrior(int(config["dim"]))
    if kind == "spherical":
        return SphericalPrior(int(config["dim"]))
    raise ConfigurationError(
        "expected a prior of kind 'categorical', 'learned', 'normal' or 'spherical', got "
        f"{kind!r}; rebuild a prior of your own yourself"
    )
