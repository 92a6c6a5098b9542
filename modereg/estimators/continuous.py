"""Variational estimators for continuous codes: a Gaussian, and a von Mises-Fisher on a sphere."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Unpack

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.estimators.base import Source
from modereg.estimators.network import NetworkEstimator, NetworkOptions
from modereg.priors import NormalPrior, Prior, SphericalPrior, as_prior

__all__ = ["GaussianMI", "VonMisesFisherMI"]


class _DensityMI(NetworkEstimator):
    """Barber and Agakov's bound with a density of the code that one network's output describes."""

    is_lower_bound = True

    @abstractmethod
    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        """Return log q(z | s) - log p(z), ``[*B]``, of the network's output ``[*B, width]``."""

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(z | s) - log p(z), ``[*B]`` nats, before any clamp.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ShapeError: if the codes are of another length than the prior's.
        """
        return self._ratio(self.output(tensordict), self.codes(tensordict))

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return -log q(z | s) with noise on q's input, ``[*B]`` nats; it may be negative."""
        latent = self.codes(tensordict)
        ratio = self._ratio(self.output(tensordict, noisy=True), latent)
        return -ratio - self.prior.log_prob(latent).to(ratio)


class GaussianMI(_DensityMI):
    r"""Barber and Agakov's bound with a diagonal Gaussian q, for codes :math:`z \sim N(0, I)`.

    :math:`I(Z; S) \ge E[\log N(z; \mu(s), \sigma^2(s)) - \log N(z; 0, I)]` (BMD Eq. 1 with
    continuous codes; Barber and Agakov, 2003). It is tight where the posterior is such a Gaussian,
    as for :math:`s = z + n` with Gaussian n, where it is :math:`d/2 \log(1 + snr)`. A network that
    returns zeros pays 0 exactly: it is the prior.

    **Limits.** There is none: a code far out that q foresees pays without bound, and one that a
    narrow q misses costs up to :math:`(z - \mu)^2 / 2 \sigma^2`. So ``clamp="symmetric"`` of
    :class:`~modereg.transforms.MIReward` clamps nothing here; give it bounds of your own, such as
    ``clamp=(-2 * dim, 4 * dim)``.

    **Scale.** The entropy of a density is no unit of information: it changes with the code's units
    and may be negative. Rewards are divided by ``dim`` nats instead, so that 1 is one nat for each
    component: a posterior whose standard deviations are 1/e of the prior's.

    Args:
        network: q. A module from features to mean and raw log standard deviation ``[*B, 2 dim]``, a
            TensorDictModule that writes ``out_key``, or the total length of the features for an
            :class:`~modereg.networks.MLP` with noise on its input. If it is (or wraps) an
            :class:`~modereg.networks.InputNoise`, the loss puts its noise on the input;
            everything else reads it clean.
        prior: p(z): the length of the code, a standard normal torch distribution or a prior.
        log_std_range: bounds of log sigma, around 0, into which
            :func:`~modereg.functional.soft_range` maps the raw ones. The lower one limits what the
            bound can reach, -low nats a component on average, and how much one surprise costs.
        source: where a transition has the features, see
            :class:`~modereg.estimators.RewardEstimator`.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if the prior is not a standard normal one, the range does not lie around
            0, or the network does not fit (see :class:`~modereg.estimators.NetworkEstimator`).
    """

    prior: NormalPrior

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        log_std_range: tuple[float, float] = (-4.0, 1.0),
        source: Source = "next",
        **options: Unpack[NetworkOptions],
    ) -> None:
        prior = NormalPrior(prior) if isinstance(prior, int) else as_prior(prior)
        if not isinstance(prior, NormalPrior):
            raise ConfigurationError(
                f"expected a standard normal prior, got {prior!r}; give the length of the code"
            )
        if not -math.inf < log_std_range[0] < 0.0 < log_std_range[1] < math.inf:
            raise ConfigurationError(
                f"expected a finite log_std_range around 0, so that q can be the prior, got "
                f"{log_std_range}"
            )
        super().__init__(network, 2 * prior.feature_dim, prior, source=source, **options)
        self.log_std_range = (float(log_std_range[0]), float(log_std_range[1]))

    def options(self) -> dict[str, Any]:
        """Return ``{"log_std_range": [low, high]}``."""
        return {"log_std_range": list(self.log_std_range)}

    @property
    def upper_limit(self) -> float:
        """Infinite: densities have no largest ratio."""
        return math.inf

    @property
    def scale(self) -> float:
        """One nat for each component of the code."""
        return float(self.prior.feature_dim)

    def posterior(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of q(z | s), ``[*B, dim]`` each."""
        return self._split(self.output(tensordict))

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = output.chunk(2, -1)
        return loc, functional.soft_range(raw, *self.log_std_range)

    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        loc, log_std = self._split(output)
        return functional.gaussian_log_ratio(loc, log_std, latent.to(loc.dtype))


class VonMisesFisherMI(_DensityMI):
    r"""Barber and Agakov's bound with a von Mises-Fisher q, for codes uniform on a unit sphere.

    :math:`I(Z; S) \ge E[\log C_d(\kappa(s)) + \kappa(s)\, \mu(s) \cdot z + \log A_d]` with the
    sphere's area A (BMD Eq. 1; the density is that of VISR, Hansen et al., arXiv 1906.05030, with
    its concentration learned). It depends on angles alone: turning codes and means together changes
    nothing. A network that returns zeros pays 0 exactly: it is the prior.

    The network gives a vector v and a number g for each state. The natural parameter is
    :math:`\kappa \mu = u / \sqrt{1 + |u|^2 / \kappa_{max}^2}` with :math:`u = e^g v`, smooth also
    where q knows nothing, and g lets kappa grow by factors.

    **Limits and scale.** No sample pays more than a code at the peak of the sharpest q,
    :math:`\log C_d(\kappa_{max}) + \kappa_{max} + \log A_d`, which is :attr:`upper_limit`. Rewards
    are divided by it, so that an episode earns at most 1: the entropy of the uniform density, the
    log of an area, is negative from d = 19 on and no such limit.

    Args:
        network: q. A module from features to v and g, ``[*B, dim + 1]``, a TensorDictModule that
            writes ``out_key``, or the total length of the features for an
            :class:`~modereg.networks.MLP` with noise on its input, see :class:`GaussianMI`.
        prior: p(z): the length of the code, or a :class:`~modereg.priors.SphericalPrior`.
        max_kappa: the largest concentration; the deviation of an angle is about
            :math:`1/\sqrt\kappa`.
        source: where a transition has the features, see
            :class:`~modereg.estimators.RewardEstimator`.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if the prior is not uniform on a sphere, ``max_kappa`` not in (0, 1e4],
            or the network does not fit (see :class:`~modereg.estimators.NetworkEstimator`).
    """

    prior: SphericalPrior

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Prior,
        *,
        max_kappa: float = 100.0,
        source: Source = "next",
        **options: Unpack[NetworkOptions],
    ) -> None:
        prior = SphericalPrior(prior) if isinstance(prior, int) else as_prior(prior)
        if not isinstance(prior, SphericalPrior):
            raise ConfigurationError(
                f"expected a prior that is uniform on a sphere, got {prior!r}; give the length of "
                "the code or a SphericalPrior"
            )
        if not 0.0 < max_kappa <= 1e4:
            raise ConfigurationError(f"expected max_kappa in (0, 10000], got {max_kappa}")
        super().__init__(network, prior.feature_dim + 1, prior, source=source, **options)
        self.max_kappa = max_kappa
        kappa = torch.tensor(max_kappa, dtype=torch.float64)
        self._upper_limit = float(functional.von_mises_fisher_peak(kappa, prior.feature_dim))

    def options(self) -> dict[str, Any]:
        """Return ``{"max_kappa": limit}``."""
        return {"max_kappa": self.max_kappa}

    @property
    def upper_limit(self) -> float:
        """The log ratio at the peak of the sharpest q, nats."""
        return self._upper_limit

    @property
    def scale(self) -> float:
        """The upper limit."""
        return self._upper_limit

    def posterior(self, tensordict: TensorDictBase) -> Tensor:
        """Return kappa mu of q(z | s), ``[*B, dim]``: its length is kappa, its direction mu."""
        return self._natural(self.output(tensordict))

    def _natural(self, output: Tensor) -> Tensor:
        gain = functional.soft_range(output[..., -1:], -10.0, 10.0).exp()
        vector = output[..., :-1] * gain
        share = vector.square().sum(-1, keepdim=True) / self.max_kappa**2
        return vector * torch.rsqrt(1.0 + share)

    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        return functional.von_mises_fisher_natural_log_ratio(self._natural(output), latent)
