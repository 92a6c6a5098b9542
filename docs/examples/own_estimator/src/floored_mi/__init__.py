"""An estimator for modereg: a classifier of codes that never stakes everything."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.estimators import NetworkEstimator
from modereg.priors import CategoricalPrior
from modereg.reading import require

__all__ = ["FlooredMI"]


class FlooredMI(NetworkEstimator):
    r"""Barber and Agakov's bound with a classifier that is mixed with the prior.

    With :math:`q'(z \mid s) = (1 - \epsilon) q(z \mid s) + \epsilon p(z)`, which sums to one as q
    does, :math:`I(Z; S) \ge E[\log q'(z \mid s) - \log p(z)]` (Barber and Agakov, 2003). A mistake
    costs at most :math:`\log \epsilon`, however sure q was; a plain classifier's has no limit.

    Args:
        network: q: a module from features to logits ``[*B, K]``, or the length of the features.
        num_codes: K, equally likely codes.
        floor: epsilon, in (0, 1).
        options: ``in_keys``, ``latent_key`` and others of ``NetworkEstimator``.

    Raises:
        ConfigurationError: if the floor is not in (0, 1).
    """

    is_lower_bound = True
    prior: CategoricalPrior

    def __init__(
        self, network: nn.Module | int, num_codes: int, *, floor: float = 0.1, **options
    ) -> None:
        if not 0 < floor < 1:
            raise ConfigurationError(f"expected a floor in (0, 1), got {floor}")
        super().__init__(network, num_codes, CategoricalPrior(num_codes), **options)
        self.floor = floor

    @property
    def upper_limit(self) -> float:
        """log(1 + (1 - epsilon)(K - 1)), nats: what a sure q is paid."""
        return math.log1p((1 - self.floor) * (self.prior.num_codes - 1))

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q'(z | s) - log p(z), ``[*B]`` nats, at least log epsilon."""
        return self._ratio(tensordict, noisy=False)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return -log q'(z | s), ``[*B]`` nats, with noise on the input."""
        latent = require(tensordict, self.latent_key, "FlooredMI")
        return -self._ratio(tensordict, noisy=True) - self.prior.log_prob(latent)

    def _ratio(self, tensordict: TensorDictBase, *, noisy: bool) -> Tensor:
        latent = require(tensordict, self.latent_key, "FlooredMI")
        logits = self.output(tensordict, noisy=noisy)
        log_prior = self.prior.log_probs.to(logits.device)
        ratio = functional.categorical_log_ratio(logits, latent, log_prior)
        floor = torch.full_like(ratio, math.log(self.floor))
        return torch.logaddexp(ratio + math.log1p(-self.floor), floor)
