r"""Wasserstein dependency: a representation in which a code moves the state its own way."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Unpack, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional
from modereg.errors import ConfigurationError
from modereg.estimators.network import NetworkEstimator, NetworkOptions
from modereg.networks import MLP, InputNoise, flat_features
from modereg.priors import CategoricalPrior, Prior, as_prior
from modereg.reading import require

__all__ = ["LSD", "METRA", "WassersteinDependency"]


class WassersteinDependency(NetworkEstimator):
    r"""Maximise :math:`E[(\phi(s') - \phi(s))^\top f(z)]` with no step of phi above d(s, s').

    What is paid is no estimate of mutual information but a potential,
    :math:`l(s, z) = \phi(s)^\top f(z)`: :class:`~modereg.transforms.MIReward` with
    ``timing="difference"`` pays :math:`\gamma^n \phi(s')^\top f(z) - \phi(s)^\top f(z)`, which is
    the reward of METRA and LSD at :math:`\gamma = 1`. Its unit is that of d, not nats, it has no
    upper limit, and an episode's sum grows with how far it went; a transition earns at most
    :math:`\|f(z)\|\, d(s, s')` once the constraint holds. :attr:`scale` is 1, so that ``normalize``
    changes nothing and ``coef`` is in the papers' units.

    Discrete codes point along :func:`~modereg.functional.centred_codes`, of length
    :math:`\sqrt{K / (K - 1)}` where they are equally likely; continuous ones along their features,
    be they on a sphere or Gaussian, as the prior has them.

    The constraint is kept by a dual variable :math:`\lambda` in the same loss
    (:func:`~modereg.functional.dual_loss`); its logarithm is the parameter ``log_dual``. Training
    reads transitions: features in the root and in ``next``. Noise on the input, if any, is the same
    at both ends of a step, which it moves as a whole. The objective leaves a constant in phi free,
    so the bias of phi's last layer never learns; in an MLP that is made here it stays 0.

    Args:
        network: phi. A module from features to ``[*B, D]``, a TensorDictModule that writes
            ``out_key``, or the total length of the features; D is the length of the codes'
            features, K for discrete ones.
        prior: p(z): the number of codes, a torch distribution or a prior.
        dual: :math:`\lambda` at the start, positive.
        tolerance: :math:`\varepsilon`, positive, in the unit of :math:`d^2`: how much slack a step
            is credited with.
        options: ``hidden``, ``noise``, ``in_keys``, ``latent_key`` and ``out_key`` of
            :class:`~modereg.estimators.NetworkEstimator`.

    Raises:
        ConfigurationError: if ``dual`` or ``tolerance`` is not positive, or phi's output is not of
            length D (at the first call, where the network does not declare its ``out_features``).
    """

    is_lower_bound = False
    transitions = True

    def __init__(
        self,
        network: nn.Module | int,
        prior: int | Distribution | Prior,
        *,
        dual: float = 30.0,
        tolerance: float = 1e-3,
        **options: Unpack[NetworkOptions],
    ) -> None:
        if not (dual > 0 and tolerance > 0):
            raise ConfigurationError(
                f"expected a positive dual variable and tolerance, got {dual} and {tolerance}"
            )
        prior = as_prior(prior)
        options.setdefault("out_key", "embedding")
        super().__init__(network, prior.feature_dim, prior, source="next", **options)
        self.tolerance = tolerance
        self.log_dual = nn.Parameter(torch.tensor(math.log(dual)))

    @classmethod
    def _make_network(cls, in_features: int, width: int, hidden: Sequence[int]) -> MLP:
        """Make phi; the bias that no step depends on is kept at 0."""
        made = super()._make_network(in_features, width, hidden)
        nn.init.zeros_(cast(nn.Linear, made.layers[-1]).bias).requires_grad_(False)
        return made

    def options(self) -> dict[str, Any]:
        """Return ``{"tolerance": epsilon}``; the dual variable is a parameter."""
        return {"tolerance": self.tolerance}

    @property
    def upper_limit(self) -> float:
        """Infinite: phi is bounded by nothing but how far an episode goes."""
        return math.inf

    @property
    def scale(self) -> float:
        """1: the reward is paid in the unit of d."""
        return 1.0

    @abstractmethod
    def squared_distance(self, tensordict: TensorDictBase) -> Tensor:
        """Return :math:`d(s, s')^2` of transitions, ``[*B]``, what a step of phi may cover."""

    def direction(self, latent: Tensor) -> Tensor:
        """Return f(z), ``[*B, D]`` float32 or as the codes are."""
        features = self.prior.features(latent)
        if not isinstance(self.prior, CategoricalPrior):
            return features
        return functional.centred_codes(features, self.prior.log_probs.exp())

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        r"""Return the potential :math:`\phi(s)^\top f(z)`, ``[*B]``; not nats.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ShapeError: if the codes are not of the prior's shape.
        """
        latent = self.codes(tensordict)
        phi = self.output(tensordict)
        return (phi * self.direction(latent).to(phi)).sum(-1)

    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the dual loss of transitions, ``[*B]``.

        Raises:
            KeyMismatchError: if a feature is missing in the root or in ``next``, or the code is.
            ShapeError: if the codes are not of the prior's shape.
        """
        objective, slack = self._step(tensordict, noisy=True)
        return functional.dual_loss(objective, slack, self.log_dual)

    def bound(self, tensordict: TensorDictBase) -> Tensor:
        """Return the mean potential, a scalar; of transitions that of the state each led to."""
        return super().bound(self._arrived(tensordict))

    @torch.no_grad()
    def figures(self, tensordict: TensorDictBase) -> dict[str, float]:
        r"""Return what a training log shows of data that the estimator was not trained on.

        Args:
            tensordict: ``[*B]`` features and codes in the root; of transitions, whose ``next`` has
                features too, the base class's figures are of the state that each led to.

        Returns:
            What the base class has, and ``dual``, :math:`\lambda`. Of transitions also ``step``,
            the mean of :math:`(\phi(s') - \phi(s))^\top f(z)`, and ``too_long``, the share of steps
            of phi that exceed :math:`d^2` by more than the tolerance.
        """
        figures = super().figures(self._arrived(tensordict))
        figures["dual"] = float(self.log_dual.exp())
        if not _has_next(tensordict):
            return figures
        objective, slack = self._step(tensordict)
        too_long = (slack < -self.tolerance).to(slack.dtype)
        return figures | {"step": float(objective.mean()), "too_long": float(too_long.mean())}

    def _arrived(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the features of ``next`` beside the code, or what there is without ``next``."""
        if not _has_next(tensordict):
            return tensordict
        latent = require(tensordict, self.latent_key, "the estimator")
        after = tensordict.get("next").select(*self.in_keys, strict=False)
        return after.set(self.latent_key, latent)

    def _step(self, tensordict: TensorDictBase, *, noisy: bool = False) -> tuple[Tensor, Tensor]:
        """Return the objective and the slack of each transition, ``[*B]`` each."""
        latent = self.codes(tensordict)
        phi_t, phi_tp1 = self._ends(tensordict, noisy)
        allowed = self.squared_distance(tensordict).to(phi_t)
        return (
            functional.directed_step(phi_t, phi_tp1, self.direction(latent).to(phi_t)),
            functional.constraint_slack(phi_t, phi_tp1, allowed, self.tolerance),
        )

    def _ends(self, tensordict: TensorDictBase, noisy: bool) -> tuple[Tensor, Tensor]:
        """Return phi before and after, ``[*B, D]`` each, with one and the same noise if asked."""
        ends = tensordict, require(tensordict, "next", "the estimator")
        module = getattr(self.network, "module", None)
        if not noisy or not isinstance(module, InputNoise):
            return self.output(ends[0]), self.output(ends[1])
        x_t, x_tp1 = (
            flat_features([require(end, key, "the estimator") for key in self.in_keys])
            for end in ends
        )
        noise = module.input_std * torch.randn_like(x_t)
        return module(x_t + noise), module(x_tp1 + noise)


class METRA(WassersteinDependency):
    r"""Metric-aware abstraction: one decision is a distance of 1 (Park et al., arXiv 2310.08887).

    :math:`\|\phi(s') - \phi(s)\| \le 1` for states that one decision joins, so distances in phi are
    at most the number of decisions between two states, and the codes spread over what can be
    reached in many of them. Needs no metric of the observations, which may be images.

    Arguments and errors are those of :class:`WassersteinDependency`.
    """

    def squared_distance(self, tensordict: TensorDictBase) -> Tensor:
        """Return ones, ``[*B]``."""
        device = require(tensordict, self.in_keys[0], "the estimator").device
        return torch.ones(tensordict.batch_size, device=device)


class LSD(WassersteinDependency):
    r"""Lipschitz-constrained discovery: Euclid's distance of features (arXiv 2202.00914).

    :math:`\|\phi(s') - \phi(s)\| \le \|s' - s\|`, so the codes spread over states that are far
    apart. The paper constrains phi everywhere, by spectral normalisation of its layers; here the
    constraint is METRA's, on the steps that were seen, so phi between two states is at most as far
    apart as the path between them is long. For the paper's, pass a network whose layers are
    spectrally normalised and not expansive, and the dual variable falls away by itself.

    The distance is over all features, in units of their common scale (``unit``, set by
    :meth:`fit_features`; 1 before that), so that metres and millimetres learn alike.

    Arguments and errors are those of :class:`WassersteinDependency`.
    """

    unit: Tensor

    def __init__(
        self, network: nn.Module | int, prior: int | Distribution | Prior, **options: Any
    ) -> None:
        super().__init__(network, prior, **options)
        self.register_buffer("unit", torch.ones(()))

    @torch.no_grad()
    def fit_features(self, features: Tensor) -> None:
        """Set the unit of distance and phi's scale from features ``[N, F]`` of the base.

        Raises:
            ConfigurationError: if phi is a network of the user's, which scales its input itself.
        """
        super().fit_features(features)
        self.unit.copy_(features.var(0).mean().sqrt().clamp_min(1e-6))

    def squared_distance(self, tensordict: TensorDictBase) -> Tensor:
        r"""Return :math:`\|s' - s\|^2` over all features, ``[*B]``, in squared units."""
        after = require(tensordict, "next", "the estimator")
        totals = []
        for key in self.in_keys:
            x_t, x_tp1 = (require(data, key, "the estimator") for data in (tensordict, after))
            change = ((x_tp1 - x_t) / self.unit).square().unsqueeze(-1)
            totals.append(change.flatten(tensordict.batch_dims).sum(-1))
        return torch.stack(totals).sum(0)


def _has_next(tensordict: TensorDictBase) -> bool:
    return tensordict.get("next", None) is not None
