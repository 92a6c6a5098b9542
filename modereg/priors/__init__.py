r"""Priors :math:`p(z)` over the latent code of an episode."""

from modereg.priors._make import as_prior, prior_from_config
from modereg.priors.base import Prior
from modereg.priors.categorical import CategoricalPrior
from modereg.priors.continuous import NormalPrior, SphericalPrior
from modereg.priors.learned import LearnedPrior

__all__ = [
    "CategoricalPrior",
    "LearnedPrior",
    "NormalPrior",
    "Prior",
    "SphericalPrior",
    "as_prior",
    "prior_from_config",
]
