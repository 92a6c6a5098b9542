"""The contrastive estimator, for codes of any kind: a critic tells a code from other codes."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional
from modereg.errors import CheckpointError, ConfigurationError
from modereg.estimators.base import Source
from modereg.estimators.network import NetworkEstimator, NetworkOptions
from modereg.networks import MLP
from modereg.priors import CategoricalPrior, Prior, as_prior

__all__ = ["ContrastiveMI"]

BOUND_SETS = 8
"""Over how many fresh sets of contrasts the bound of continuous codes is averaged."""


class ContrastiveMI(NetworkEstimator):
    r"""InfoNCE with CIC's critic and contrasts from the prior (arXiv 1807.03748, 2202.00161).

    The critic :math:`f(s, z) = \cos(h(s), g(z)) / T` compares embeddings of the features and of
    the code, and a sample pays :func:`~modereg.functional.contrastive_ratio`,
    :math:`\log e^f / \frac1N (e^f + \sum_{j=1}^{N-1} e^{f(s, z_j)})`, at most log N. The papers
    take the other codes of the batch for :math:`z_j`; here p(z) is known and they come from it, so
    what a row pays does not depend on its batch. Three things are read of the one critic:

    - *Training* draws N - 1 fresh codes at each call, one set for all rows, so that the critic
      cannot learn the contrasts by heart. Its optimum is the log ratio plus a function of s.
    - *The reward* is deterministic: recomputed from a replay buffer it is what was collected, while
      the networks stand still. Discrete codes are compared with all codes, weighed by p(z), which
      is a lower bound for every critic. Continuous codes are compared with a set that is drawn
      once, when the estimator is made, and kept in the ``state_dict`` (``contrasts``). Averaged
      over such sets it is a lower bound; for one set it is off by a function of s of the order of
      :math:`1 / \sqrt N`, and a policy that is trained on it long enough may find where.
    - *The bound* of continuous codes therefore draws eight fresh sets at each call and averages
      over them: a lower bound in expectation, whatever reward the policy was trained on, with an
      eighth of the variance that the draws bring. That of discrete codes is the mean reward, with
      nothing drawn.

    Args:
        network: h. A module from features to ``[*B, width]``, a TensorDictModule that writes
            ``out_key``, or the total length of the features, see
            :class:`~modereg.estimators.NetworkEstimator`.
        prior: p(z): the number of codes, a torch distribution or a prior.
        code_network: g, from what the prior makes of a code, ``[M, D]``, to ``[M, width]``; by
            default a table for discrete codes, a small MLP for continuous ones.
        width: length of the embeddings.
        num_samples: N, the pair itself and N - 1 contrasts; the limit is log N, so take N well
            above :math:`e^{I}`.
        temperature: T, positive. The smaller, the more a cosine can say, and the further from 0 an
            untrained critic starts: with CIC's 0.5 it tells 4 codes apart by at most 1.2 of the
            1.39 nats. None takes the inner product, CPC's log-bilinear critic.
        source: where a transition has the features, see
            :class:`~modereg.estimators.RewardEstimator`.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if N is below 2, the temperature is not positive, or an embedding is not
            of length ``width`` (at the first call, where a network does not declare its
            ``out_features``).
    """

    is_lower_bound = True
    contrasts: Tensor
    """What a continuous code is compared with for the reward, ``[N - 1, ...]``; else ``[0]``."""

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        code_network: nn.Module | None = None,
        width: int = 32,
        num_samples: int = 256,
        temperature: float | None = 0.1,
        source: Source = "next",
        **options: Unpack[NetworkOptions],
    ) -> None:
        _check_options(num_samples, temperature)
        options.setdefault("out_key", "embedding")
        super().__init__(network, width, as_prior(prior), source=source, **options)
        self.num_samples, self.temperature = num_samples, temperature
        self._own_code_network = code_network is not None
        if code_network is None:
            code_network = _code_network(self.prior, width)
        self.code_network = code_network
        self._check_code_width(getattr(self.code_network, "out_features", width))
        contrasts = torch.zeros(0) if self._discrete else self._draw()
        self.register_buffer("contrasts", contrasts)

    def options(self) -> dict[str, Any]:
        """Return width, number of samples and temperature.

        Raises:
            CheckpointError: if the codes are embedded by a network of the user's.
        """
        if self._own_code_network:
            raise CheckpointError(
                "expected a ContrastiveMI with the default code network, got one with "
                f"{type(self.code_network).__name__}; save its state_dict yourself"
            )
        return {
            "width": self.width,
            "num_samples": self.num_samples,
            "temperature": self.temperature,
        }

    @property
    def upper_limit(self) -> float:
        """The limit of :func:`~modereg.functional.contrastive_limit`, at most log N, nats."""
        if isinstance(self.prior, CategoricalPrior):
            return functional.contrastive_limit(self.num_samples, self.prior.largest_surprise)
        return functional.contrastive_limit(self.num_samples)

    @property
    def scale(self) -> float:
        """The smaller of H(p) and log N for discrete codes, log N for continuous ones, nats."""
        limit = math.log(self.num_samples)
        return min(self.prior.entropy, limit) if self._discrete else limit

    def scores(self, tensordict: TensorDictBase, codes: Tensor) -> Tensor:
        """Return f of each row with each of some codes, ``[*B, M]``.

        Args:
            tensordict: ``[*B]`` features.
            codes: ``[M]`` or ``[M, ...]``, as the prior draws them.
        """
        return self._scores(self.output(tensordict), codes)

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return the contrastive ratio with the kept contrasts, ``[*B]`` nats, at most log N.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ShapeError: if the codes are not of the prior's shape.
        """
        latent = self.codes(tensordict)
        embedding = self.output(tensordict)
        if not isinstance(self.prior, CategoricalPrior):
            return self._ratio(embedding, latent, self.contrasts)
        codes = torch.arange(self.prior.num_codes, device=embedding.device)
        scores = self._scores(embedding, codes)
        joint = scores.gather(-1, latent.unsqueeze(-1)).squeeze(-1)
        probs = self.prior.log_probs.detach().exp()
        return functional.contrastive_ratio(joint, scores, probs, self.num_samples)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return minus the ratio with fresh contrasts and noise on h's input, ``[*B]`` nats."""
        latent = self.codes(tensordict)
        embedding = self.output(tensordict, noisy=True)
        return -self._ratio(embedding, latent, self._draw(embedding.device))

    def bound(self, tensordict: TensorDictBase) -> Tensor:
        """Return the estimate of I(Z; S), a scalar in nats; with fresh draws if continuous."""
        if self._discrete:
            return super().bound(tensordict)
        latent = self.codes(tensordict)
        embedding = self.output(tensordict)
        draws = (self._draw(embedding.device) for _ in range(BOUND_SETS))
        return torch.stack([self._ratio(embedding, latent, draw).mean() for draw in draws]).mean()

    @property
    def _discrete(self) -> bool:
        return self.prior.num_codes is not None

    def _draw(self, device: torch.device | None = None) -> Tensor:
        """Draw a set of contrasts from the prior, ``[N - 1, ...]``."""
        return self.prior.sample(torch.Size([self.num_samples - 1]), device)

    def _embed(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        embedding = self.code_network(self.prior.features(codes).to(dtype))
        self._check_code_width(embedding.shape[-1])
        return embedding

    def _scores(self, embedding: Tensor, codes: Tensor) -> Tensor:
        return functional.pair_scores(
            embedding, self._embed(codes, embedding.dtype), self.temperature
        )

    def _ratio(self, embedding: Tensor, latent: Tensor, contrasts: Tensor) -> Tensor:
        """Return the ratio of rows with one set of equally likely contrasts, ``[*B]``."""
        own = self._embed(latent, embedding.dtype).unsqueeze(-2)
        joint = functional.pair_scores(embedding.unsqueeze(-2), own, self.temperature)
        others = self._scores(embedding, contrasts)
        return functional.contrastive_ratio(joint[..., 0, 0], others)

    def _check_code_width(self, width: int) -> None:
        if width != self.width:
            raise ConfigurationError(
                f"expected embeddings of codes of length {self.width}, got {width}; give "
                "code_network as many outputs as width says"
            )


def _code_network(prior: Prior, width: int) -> nn.Module:
    if prior.num_codes is not None:
        return nn.Linear(prior.feature_dim, width, bias=False)
    return MLP(prior.feature_dim, width, (64, 64))


def _check_options(num_samples: int, temperature: float | None) -> None:
    if num_samples < 2:
        raise ConfigurationError(
            f"expected num_samples of at least 2, got {num_samples}; log of it limits the reward"
        )
    if temperature is not None and not temperature > 0:
        raise ConfigurationError(
            f"expected a positive temperature, got {temperature}; None takes the inner product"
        )
