r"""Estimators of the mutual information :math:`I(Z; S)` that also reward each state.

The convention here keeps the prior: the reward is :math:`\log q(z \mid s) - \log p(z)`, so a q that
knows nothing pays 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Distribution

from modereg import functional, keys
from modereg.errors import ConfigurationError
from modereg.networks import InputNoise
from modereg.priors import CategoricalPrior, Prior, as_prior
from modereg.reading import evaluate, require

__all__ = ["CategoricalMI", "RewardEstimator", "check_support"]


class RewardEstimator(nn.Module, ABC):
    """What :class:`~modereg.transforms.MIReward` takes: a ratio, its loss and its bound.

    Args:
        prior: p(z).
        in_keys: entries of the features, without the code; nested keys allowed.
        latent_key: entry of the code.
    """

    is_lower_bound: bool
    """Whether :meth:`bound` is, in expectation over fresh data, at most I(Z; S)."""

    def __init__(
        self, prior: Prior, in_keys: Sequence[NestedKey], latent_key: NestedKey = keys.LATENT
    ) -> None:
        super().__init__()
        self.prior, self.in_keys, self.latent_key = prior, list(in_keys), latent_key

    @property
    @abstractmethod
    def upper_limit(self) -> float:
        """The largest value that :meth:`log_ratio` can take, nats; may be infinite."""

    @abstractmethod
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return the reward of each sample before any clamp, ``[*B]`` nats."""

    @abstractmethod
    def loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the scalar that training minimises; noise on the input, where there is any."""

    @abstractmethod
    def bound(self, tensordict: TensorDictBase) -> Tensor:
        """Return the estimate of I(Z; S) on a batch, a scalar in nats, unclamped."""


class CategoricalMI(RewardEstimator):
    r"""Barber and Agakov's bound with a classifier of discrete codes (BMD Eq. 1 and 2).

    :math:`I(Z; S) \ge E[\log q(z \mid s) - \log p(z)]`. Every sample pays at most
    :math:`-\log p(z)`; a q that equals the prior pays 0 exactly.

    Args:
        network: q. A module from features to logits ``[*B, K]``, or a TensorDictModule that writes
            ``logits_key``. If it is (or wraps) an :class:`~modereg.networks.InputNoise`,
            :meth:`loss` puts its noise on the input; everything else reads it clean.
        prior: p(z), discrete: the number of codes, a torch ``Categorical`` or a prior.
        in_keys: entries of the features, in the order in which a plain module takes them.
        latent_key: entry of the code, ``[*B]`` int64.
        logits_key: entry of the logits.

    Raises:
        ConfigurationError: if the prior is not discrete, or a TensorDictModule does not write
            ``logits_key``, or is given with ``in_keys`` beside its own, or q has another number of
            outputs than the prior has codes (at the first call, where q does not declare its
            ``out_features``).
    """

    is_lower_bound = True
    prior: CategoricalPrior
    log_prior: Tensor

    def __init__(
        self,
        network: nn.Module,
        prior: int | Distribution | Prior,
        *,
        in_keys: Sequence[NestedKey] | None = None,
        latent_key: NestedKey = keys.LATENT,
        logits_key: NestedKey = keys.LOGITS,
    ) -> None:
        module = _as_tensordict_module(network, in_keys, logits_key)
        prior = as_prior(prior)
        if not isinstance(prior, CategoricalPrior):
            raise ConfigurationError(
                f"expected a discrete prior, got {prior!r}; a classifier needs codes in [0, K)"
            )
        _check_width(prior, _declared_width(module))
        super().__init__(prior, module.in_keys, latent_key)
        self.network, self.logits_key = module, logits_key
        self.register_buffer("log_prior", prior.log_probs.clone(), persistent=False)

    @property
    def upper_limit(self) -> float:
        """The largest over codes of -log p(z), nats: log K for the uniform prior."""
        return float(-self.prior.log_probs[self.prior.probs > 0].min())

    def logits(self, tensordict: TensorDictBase, *, noisy: bool = False) -> Tensor:
        """Return q's logits, ``[*B, K]``; the tensordict is left as it is.

        Raises:
            KeyMismatchError: if a feature is missing.
            ConfigurationError: if q has another number of codes than the prior.
        """
        logits = evaluate(self.network, tensordict, self.logits_key, noisy=noisy, reader="q")
        _check_width(self.prior, logits.shape[-1])
        return logits

    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(. | s) of every code, ``[*B, K]`` nats."""
        return self.logits(tensordict).log_softmax(-1)

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return log q(z | s) - log p(z), ``[*B]`` nats, at most -log p(z).

        Raises:
            KeyMismatchError: if a feature or the code is missing.
        """
        latent = require(tensordict, self.latent_key, "the estimator")
        return functional.categorical_log_ratio(self.logits(tensordict), latent, self.log_prior)

    def loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the cross entropy with noise on q's input, a scalar in nats.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ConfigurationError: if a code lies outside the prior's support.
        """
        latent = require(tensordict, self.latent_key, "the estimator")
        check_support(self.prior, latent, self.latent_key)
        return functional.inference_loss(self.logits(tensordict, noisy=True), latent)

    def bound(self, tensordict: TensorDictBase) -> Tensor:
        """Return E[log q - log p] on a batch, a scalar in nats; negative if q is misleading."""
        return self.log_ratio(tensordict).mean()


def _as_tensordict_module(
    network: nn.Module, in_keys: Sequence[NestedKey] | None, logits_key: NestedKey
) -> TensorDictModuleBase:
    if not isinstance(network, TensorDictModuleBase):
        return TensorDictModule(network, list(in_keys or [keys.HISTORY]), [logits_key])
    if in_keys is not None and list(in_keys) != list(network.in_keys):
        raise ConfigurationError(
            f"expected in_keys only for a plain module, got {list(in_keys)} for one that reads "
            f"{list(network.in_keys)}; leave them out"
        )
    if logits_key not in network.out_keys:
        raise ConfigurationError(
            f"expected q to write {logits_key!r}, got a module that writes "
            f"{list(network.out_keys)}; pass logits_key"
        )
    return network


def _check_width(prior: Prior, width: int | None) -> None:
    if width is not None and width != prior.num_codes:
        raise ConfigurationError(
            f"expected logits of the prior's {prior.num_codes} codes, got {width} from q; give q "
            "as many outputs as the prior has codes"
        )


def _declared_width(network: nn.Module) -> int | None:
    """Follow wrappers to the last layer and return its ``out_features``, if it has any."""
    if isinstance(network, TensorDictModule):
        network = network.module
    if isinstance(network, InputNoise):
        network = network.network
    if isinstance(network, nn.Sequential):
        network = network[-1]
    return getattr(network, "out_features", None)


def check_support(prior: Prior, latent: Tensor, key: NestedKey = keys.LATENT) -> None:
    """Check that discrete codes have positive probability; continuous codes pass.

    Raises:
        ConfigurationError: if a code lies outside the prior's support, or is not an integer.
    """
    if not isinstance(prior, CategoricalPrior) or not latent.numel():
        return
    if latent.is_floating_point():
        raise ConfigurationError(f"expected integer codes under {key!r}, got {latent.dtype}")
    low, high = latent.aminmax()
    inside = 0 <= int(low) and int(high) < len(prior.probs)
    if not inside or not bool((prior.probs.to(latent.device) > 0)[latent].all()):
        support = prior.probs.nonzero().squeeze(-1).tolist()
        raise ConfigurationError(
            f"expected codes under {key!r} from the prior's support {support}, got codes between "
            f"{int(low)} and {int(high)}; sample codes from the same prior"
        )
