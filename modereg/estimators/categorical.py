"""The variational estimator for discrete codes: a classifier of them."""

from __future__ import annotations

from typing import Unpack

from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.estimators.base import Source
from modereg.estimators.network import NetworkEstimator, NetworkOptions
from modereg.priors import CategoricalPrior, Prior, as_prior

__all__ = ["CategoricalMI"]


class CategoricalMI(NetworkEstimator):
    r"""Barber and Agakov's bound with a classifier of discrete codes (BMD Eq. 1 and 2).

    :math:`I(Z; S) \ge E[\log q(z \mid s) - \log p(z)]`. Every sample pays at most
    :math:`-\log p(z)`; a q that equals the prior pays 0 exactly. The prior is kept, which other
    codebases drop; one that is learned is read as it stands and gets no gradient.

    Args:
        network: q. A module from features to logits ``[*B, K]``, a TensorDictModule that writes
            ``out_key``, or the total length of the features for an
            :class:`~modereg.networks.MLP` with noise on its input. If it is (or wraps) an
            :class:`~modereg.networks.InputNoise`, :meth:`loss` puts its noise on the input;
            everything else reads it clean.
        prior: p(z), discrete: the number of codes, a torch ``Categorical`` or a prior.
        source: where a transition has the features, see
            :class:`~modereg.estimators.RewardEstimator`.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if the prior is not discrete, or the network does not fit (see
            :class:`~modereg.estimators.NetworkEstimator`).
    """

    is_lower_bound = True
    prior: CategoricalPrior

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        source: Source = "next",
        **options: Unpack[NetworkOptions],
    ) -> None:
        prior = as_prior(prior)
        if not isinstance(prior, CategoricalPrior):
            raise ConfigurationError(
                f"expected a discrete prior, got {prior!r}; a classifier needs codes in [0, K)"
            )
        super().__init__(network, prior.num_codes, prior, source=source, **options)

    @property
    def upper_limit(self) -> float:
        """The largest over codes of -log p(z), nats: log K for the uniform prior."""
        return self.prior.largest_surprise

    def logits(self, tensordict: TensorDictBase, *, noisy: bool = False) -> Tensor:
        """Return q's logits, ``[*B, K]``; see :meth:`output`."""
        return self.output(tensordict, noisy=noisy)

    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(. | s) of every code, ``[*B, K]`` nats."""
        return self.logits(tensordict).log_softmax(-1)

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(z | s) - log p(z), ``[*B]`` nats, at most -log p(z).

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ShapeError: if the codes are not ``[*B]``.
        """
        latent = self.codes(tensordict)
        logits = self.logits(tensordict)
        log_prior = self.prior.log_probs.to(logits.device)
        return functional.categorical_log_ratio(logits, latent, log_prior)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the cross entropy with noise on q's input, ``[*B]`` nats."""
        latent = self.codes(tensordict)
        return functional.inference_nll(self.logits(tensordict, noisy=True), latent)
