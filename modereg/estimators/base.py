"""The interface of every estimator that rewards a state for what it says about the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import functional, keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.priors import CategoricalPrior, Prior
from modereg.reading import require
from modereg.suggestions import with_shape_suggestion

__all__ = ["RewardEstimator", "Source", "check_support"]

Source = Literal["next", "root"]
"""Where the features of a transition stand: in ``next``, or in the root beside the action."""


class RewardEstimator(nn.Module, ABC):
    r"""What :class:`~modereg.transforms.MIReward` and a discoverer take.

    An estimator of one's own gives :attr:`upper_limit`, :meth:`log_ratio` and :meth:`sample_loss`,
    and :func:`modereg.testing.check_estimator` tells whether it keeps what the rest relies on. All
    of them are given features and codes in the root, leave the tensordict as it is, and return what
    belongs to each row, whatever the other rows are.

    Args:
        prior: p(z).
        in_keys: entries of the features, without the code; nested keys allowed.
        latent_key: entry of the code.
        source: where a transition has the features: ``"next"`` for the state that a decision led
            to, as in :math:`q(z \mid s')`; ``"root"`` for what was decided, as in
            :math:`q(z \mid s, a)`.

    Raises:
        ConfigurationError: if there is no entry, or a string in the place of a sequence, or
            ``source`` is another word.
    """

    is_lower_bound: bool
    """Whether :meth:`bound` is, in expectation over fresh data, at most I(Z; S)."""

    transitions: bool = False
    """Whether :meth:`sample_loss` also reads the features in ``next``: it learns from steps."""

    def __init__(
        self,
        prior: Prior,
        in_keys: Sequence[NestedKey],
        latent_key: NestedKey = keys.LATENT,
        *,
        source: Source = "next",
    ) -> None:
        super().__init__()
        if source not in ("next", "root"):
            raise ConfigurationError(f"expected source of 'next' or 'root', got {source!r}")
        self.prior, self.in_keys, self.latent_key = prior, keys.key_list(in_keys), latent_key
        self.source: Source = source
        discrete = prior.num_codes is not None
        self._code_shape = torch.Size([]) if discrete else prior.spec(torch.Size([])).shape

    @property
    @abstractmethod
    def upper_limit(self) -> float:
        """The largest value that :meth:`log_ratio` can take; may be infinite."""

    @property
    def scale(self) -> float:
        """What :class:`~modereg.transforms.MIReward` divides by, nats; 0 pays nothing.

        H(p) for discrete codes; 1 for continuous ones, whose entropy is that of a density: it may
        be negative, and changes with the code's units.
        """
        return self.prior.entropy if self.prior.num_codes is not None else 1.0

    @abstractmethod
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        """Return the reward of each sample before any clamp, ``[*B]`` nats."""

    @abstractmethod
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return what training minimises, of each sample, ``[*B]``; noise on the input, if any."""

    def codes(self, tensordict: TensorDictBase) -> Tensor:
        """Return the codes, ``[*B]`` for discrete priors, ``[*B, ...]`` as drawn for others.

        Raises:
            KeyMismatchError: if they are missing.
            ShapeError: if they have another shape, such as ``[*B, 1]``, which would broadcast.
        """
        latent = require(tensordict, self.latent_key, "the estimator")
        expected = (*tensordict.batch_size, *self._code_shape)
        if latent.shape != expected:
            sentence = (
                f"expected codes of shape {expected} under {self.latent_key!r}, got "
                f"{tuple(latent.shape)}; sample them from {self.prior!r}"
            )
            raise ShapeError(with_shape_suggestion(sentence, latent.shape, expected))
        return latent

    def loss(self, tensordict: TensorDictBase) -> Tensor:
        """Return the scalar that training minimises.

        Raises:
            KeyMismatchError: if a feature or the code is missing.
            ShapeError: if the codes are not of the prior's shape.
            ConfigurationError: if a code lies outside the prior's support.
        """
        check_support(self.prior, self.codes(tensordict), self.latent_key)
        return self.sample_loss(tensordict).mean()

    def bound(self, tensordict: TensorDictBase) -> Tensor:
        """Return the estimate of I(Z; S) on a batch, a scalar in nats, unclamped."""
        return self.log_ratio(tensordict).mean()

    def log_prob(self, tensordict: TensorDictBase) -> Tensor:
        r"""Return log q(. | s) of every discrete code, ``[*B, K]`` nats, q being p(z) e^log_ratio.

        For an estimator without a classifier this is what its ratio says of each code, normalised.

        Raises:
            ConfigurationError: if the codes are continuous.
            KeyMismatchError: if a feature is missing.
        """
        if not isinstance(self.prior, CategoricalPrior):
            raise ConfigurationError(
                f"expected discrete codes to tell apart, got {self.prior!r}; read log_ratio for "
                "continuous ones"
            )
        data = tensordict.select(*self.in_keys, strict=False)
        device = require(data, self.in_keys[0], "the estimator").device
        codes = torch.arange(self.prior.num_codes, device=device)
        ratios = [
            self.log_ratio(data.set(self.latent_key, code.expand(tensordict.batch_size)))
            for code in codes
        ]
        ratio = torch.stack(ratios, -1)
        return (ratio + self.prior.log_probs.to(ratio)).log_softmax(-1)

    @torch.no_grad()
    def figures(self, tensordict: TensorDictBase) -> dict[str, float]:
        """Return what a training log shows of data that the estimator was not trained on.

        Args:
            tensordict: ``[*B]`` features and codes, both in the root.

        Returns:
            ``bound`` (nats, unclamped) and ``bound_share``, in units of :attr:`scale`, 0 where that
            is 0. For discrete codes also ``held_out_loss``, the cross entropy (nats),
            ``held_out_accuracy``, and ``aliased_codes``, the codes that are taken for another
            (:func:`~modereg.functional.aliased_codes`).
        """
        bound = float(self.bound(tensordict))
        figures = {"bound": bound, "bound_share": bound / self.scale if self.scale > 0 else 0.0}
        if self.prior.num_codes is None:
            return figures
        latent, log_prob = self.codes(tensordict).reshape(-1), self.log_prob(tensordict)
        log_prob = log_prob.reshape(-1, log_prob.shape[-1])
        hits = log_prob.argmax(-1) == latent
        return figures | {
            "held_out_loss": float(-log_prob.gather(-1, latent.unsqueeze(-1)).mean()),
            "held_out_accuracy": float(hits.to(log_prob.dtype).mean()),
            "aliased_codes": int(functional.aliased_codes(log_prob, latent)),
        }

    def fit_features(self, features: Tensor) -> None:
        """Set the scale of the features ``[N, F]`` from rollouts of the base, before training.

        Raises:
            ConfigurationError: if the estimator scales its input itself.
        """
        raise ConfigurationError(
            f"expected an estimator that scales its features, got {type(self).__name__}; scale the "
            "input in your own network instead"
        )


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
