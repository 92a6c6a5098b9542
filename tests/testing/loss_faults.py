"""Wrong losses, and wrong densities of continuous codes, which are wrong in the loss too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import functional
from modereg.estimators import CategoricalMI, GaussianMI
from modereg.priors import LearnedPrior
from tests.testing.faults import CODES, classifier, codes, estimator_fault, gaussian, history

__all__ = ["LOSS_FAULTS"]


# --- the loss


class DetachedLoss(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return super().sample_loss(tensordict).detach()


class SummedLoss(CategoricalMI):
    def loss(self, tensordict: TensorDictBase) -> Tensor:
        return super().loss(tensordict) * tensordict.numel()


class ScalarLoss(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return super().sample_loss(tensordict).mean()


class UnsafeLogarithm(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        probs = self.logits(tensordict, noisy=True).softmax(-1)
        return -probs.gather(-1, codes(tensordict).unsqueeze(-1)).squeeze(-1).log()


class NoNoise(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return functional.inference_nll(self.logits(tensordict), codes(tensordict))


class LossUpwards(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        return -super().sample_loss(tensordict)


class AnyCode(CategoricalMI):
    def loss(self, tensordict: TensorDictBase) -> Tensor:
        inside = codes(tensordict).clamp(0, CODES - 1)
        return self.sample_loss(tensordict.copy().set("latent", inside)).mean()


class GradientOfThePrior(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        log_prior = self.prior.logits.log_softmax(-1)[codes(tensordict)]
        return super().sample_loss(tensordict) + log_prior


class FrozenPart(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        layers = self.network.module.network.layers
        hidden = layers[1](layers[0](history(tensordict))).detach()
        noise = self.network.module.input_std * torch.randn_like(hidden)
        return functional.inference_nll(layers[2](hidden + noise), codes(tensordict))


class HiddenNetwork(CategoricalMI):
    """Its network is in no module's list, so neither optimiser nor ``state_dict`` finds it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.__dict__["_hidden"] = [self._modules.pop("network")]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._hidden[0]._apply(function)
        return super()._apply(function)

    def __getattr__(self, name: str) -> object:
        return self._hidden[0] if name == "network" else super().__getattr__(name)


# --- continuous codes


class GaussianWithoutWidth(GaussianMI):
    """Forgets log sigma, so that a narrow q costs nothing where it errs little."""

    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        return super()._ratio(output, latent) + self._split(output)[1].sum(-1)


class GaussianHalfError(GaussianMI):
    """Counts half of the squared error, in the loss too, so that q becomes too narrow."""

    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        loc, log_std = self._split(output)
        error = (latent - loc) * (-log_std).exp()
        return super()._ratio(output, latent) + 0.25 * error.square().sum(-1)


class GaussianMean(GaussianMI):
    """Averages over the components of the code instead of summing them."""

    def _ratio(self, output: Tensor, latent: Tensor) -> Tensor:
        return super()._ratio(output, latent) / latent.shape[-1]


class GaussianWithoutPrior(GaussianMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) + self.prior.log_prob(codes(tensordict))


_PLANTED_CONTINUOUS: list[tuple[type[GaussianMI], str]] = [
    (GaussianWithoutWidth, "less than the .* that were asked for"),
    (GaussianHalfError, "which is no lower bound"),
    (GaussianMean, "less than the .* that were asked for"),
    (GaussianWithoutPrior, "less than the .* that were asked for"),
]

_PLANTED: list[tuple[type[CategoricalMI], Any, str]] = [
    (DetachedLoss, CODES, "has no graph"),
    (SummedLoss, CODES, "where the mean of sample_loss is"),
    (ScalarLoss, CODES, r"sample_loss returned the shape \(\)"),
    (UnsafeLogarithm, CODES, "not finite for features of size 10000"),
    (NoNoise, CODES, "ignores the noise"),
    (LossUpwards, CODES, "learned nothing"),
    (AnyCode, CODES, "accepts the code -1"),
    (GradientOfThePrior, partial(LearnedPrior, CODES), "passes a gradient to the prior's"),
    (FrozenPart, CODES, "passes no gradient to"),
    (HiddenNetwork, CODES, "learned nothing"),
]

LOSS_FAULTS = [
    estimator_fault(kind, partial(classifier, prior=prior), sentence, posterior=True)
    for kind, prior, sentence in _PLANTED
] + [estimator_fault(kind, gaussian, sentence) for kind, sentence in _PLANTED_CONTINUOUS]
