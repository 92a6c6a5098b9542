"""The variational estimator for discrete codes: a classifier of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
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

    Codes that are ``merged`` are one behaviour G: all of them are paid
    :math:`\log \sum_{z' \in G} q(z' \mid s) - \log \sum_{z' \in G} p(z')`, a bound on
    :math:`I(G; S)`, and q is trained to tell G alone. :meth:`log_prob` is of single codes still.

    Args:
        network: q. A module from features to logits ``[*B, K]``, a TensorDictModule that writes
            ``out_key``, or the total length of the features for an
            :class:`~modereg.networks.MLP` with noise on its input. If it is (or wraps) an
            :class:`~modereg.networks.InputNoise`, :meth:`loss` puts its noise on the input;
            everything else reads it clean.
        prior: p(z), discrete: the number of codes, a torch ``Categorical`` or a prior.
        source: where a transition has the features, see
            :class:`~modereg.estimators.RewardEstimator`.
        merged: sets of codes that count as one behaviour each; see :meth:`merge`.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if the prior is not discrete, or the network does not fit (see
            :class:`~modereg.estimators.NetworkEstimator`), or sets of codes overlap.

    Attributes:
        merged: the sets of codes that are merged, each in ascending order.
        groups: the first code of the behaviour that each code is of, ``[K]`` int64.
    """

    is_lower_bound = True
    prior: CategoricalPrior
    groups: Tensor

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        source: Source = "next",
        merged: Sequence[Sequence[int]] = (),
        **options: Unpack[NetworkOptions],
    ) -> None:
        prior = as_prior(prior)
        if not isinstance(prior, CategoricalPrior):
            raise ConfigurationError(
                f"expected a discrete prior, got {prior!r}; a classifier needs codes in [0, K)"
            )
        super().__init__(network, prior.num_codes, prior, source=source, **options)
        self.merge(merged)

    def merge(self, merged: Sequence[Sequence[int]]) -> None:
        """Count these sets of codes as one behaviour each from now on, and no others.

        Args:
            merged: disjoint sets of at least two codes.

        Raises:
            ConfigurationError: if a set is smaller, or a code is none of the prior's or is in two.
        """
        self.merged = tuple(tuple(sorted(codes)) for codes in merged)
        every = [code for codes in self.merged for code in codes]
        low, high = min(every, default=0), max(every, default=0)
        small = any(len(codes) < 2 for codes in self.merged)
        if small or len(set(every)) < len(every) or not 0 <= low <= high < self.prior.num_codes:
            raise ConfigurationError(
                f"expected disjoint sets of two or more codes in [0, {self.prior.num_codes}) to "
                f"merge, got {[list(codes) for codes in merged]}"
            )
        device = next((part.device for part in self.parameters()), None)
        groups = torch.arange(self.prior.num_codes, device=device)
        for codes in self.merged:
            groups[list(codes)] = codes[0]
        self.register_buffer("groups", groups, persistent=False)

    def options(self) -> dict[str, Any]:
        """Return the codes that are merged, if any are."""
        return {"merged": [list(codes) for codes in self.merged]} if self.merged else {}

    @property
    def upper_limit(self) -> float:
        """The largest over codes of -log p(z), nats: log K for the uniform prior."""
        return self._behaviours.largest_surprise

    @property
    def scale(self) -> float:
        """H(p) of the behaviours, nats."""
        return self._behaviours.entropy

    @property
    def _behaviours(self) -> CategoricalPrior:
        """The prior, with the weights of merged codes in the place of their first."""
        if not self.merged:
            return self.prior
        probs = self.prior.probs.clone()
        for first, *others in self.merged:
            probs[first] += probs[others].sum()
            probs[others] = 0.0
        return CategoricalPrior(probs)

    @property
    def _groups(self) -> Tensor | None:
        return self.groups if self.merged else None

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
        return functional.categorical_log_ratio(logits, latent, log_prior, self._groups)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the cross entropy with noise on q's input, ``[*B]`` nats."""
        latent = self.codes(tensordict)
        return functional.inference_nll(self.logits(tensordict, noisy=True), latent, self._groups)
