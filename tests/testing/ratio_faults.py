"""Wrong ratios, and wrong ways to read a right one."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import functional
from modereg.estimators import CategoricalMI
from tests.testing.faults import CODES, SKEWED, classifier, codes, estimator_fault, history

__all__ = ["RATIO_FAULTS"]


# --- the ratio


class MissingLogPrior(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) + self.prior.log_prob(codes(tensordict))


class WrongSign(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return -super().log_ratio(tensordict)


class PriorAdded(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) + 2 * self.prior.log_prob(codes(tensordict))


class Logits(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        latent = codes(tensordict)
        return self.logits(tensordict).gather(-1, latent.unsqueeze(-1)).squeeze(-1)


class WrongAxis(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        latent, logits = codes(tensordict), self.logits(tensordict)
        log_q = logits.log_softmax(0) if logits.ndim > 1 else logits
        log_prob = log_q.gather(-1, latent.unsqueeze(-1)).squeeze(-1)
        return log_prob - self.prior.log_prob(latent)


class NotBelowZero(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict).clamp_min(0.0)


class ClampedAbove(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict).clamp_max(0.0)


class OffByOne(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        shifted = (codes(tensordict) + 1) % CODES
        return super().log_ratio(tensordict.copy().set("latent", shifted))


class PriorOfWrongCode(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        latent = codes(tensordict)
        wrong = self.prior.log_prob((latent + 1) % CODES) - self.prior.log_prob(latent)
        return super().log_ratio(tensordict) - wrong


class UniformPriorAssumed(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        latent = codes(tensordict)
        ratio = super().log_ratio(tensordict)
        return ratio + self.prior.log_prob(latent) + math.log(CODES)

    @property
    def upper_limit(self) -> float:
        return math.log(CODES)


class Bits(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) / math.log(2.0)


class BitsThroughout(Bits):
    @property
    def upper_limit(self) -> float:
        return super().upper_limit / math.log(2.0)


class Probabilities(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        latent = codes(tensordict)
        log_q = super().log_ratio(tensordict) + self.prior.log_prob(latent)
        return log_q.exp() - self.prior.log_prob(latent).exp()


class Floored(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        log_prior = self.prior.log_prob(codes(tensordict))
        return (super().log_ratio(tensordict).exp() * log_prior.exp() + 1e-2).log() - log_prior


class LimitTooSmall(CategoricalMI):
    @property
    def upper_limit(self) -> float:
        return 0.9 * super().upper_limit


# --- rows and reading


class BatchNormalised(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        ratio = super().log_ratio(tensordict)
        return ratio - ratio.mean() if ratio.numel() > 1 else ratio


class Squeezed(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict).squeeze()


class KeptDimension(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict).unsqueeze(-1)


class ReadWithNoise(CategoricalMI):
    def logits(self, tensordict: TensorDictBase, *, noisy: bool = False) -> Tensor:
        return self.output(tensordict, noisy=True)


class BoundWithNoise(CategoricalMI):
    def bound(self, tensordict: TensorDictBase) -> Tensor:
        latent = codes(tensordict)
        log_q = functional.inference_nll(self.logits(tensordict, noisy=True), latent)
        return -(log_q + self.prior.log_prob(latent)).mean()


class BoundAboveZero(CategoricalMI):
    def bound(self, tensordict: TensorDictBase) -> Tensor:
        return super().bound(tensordict).clamp_min(0.0)


class RandomNegatives(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        logits, latent = self.logits(tensordict), codes(tensordict)
        others = logits[..., self.prior.sample(torch.Size([63]))]
        own = logits.gather(-1, latent.unsqueeze(-1))
        return own.squeeze(-1) - torch.cat([own, others], -1).logsumexp(-1) + math.log(64)


class Dropout(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return nn.functional.dropout(super().log_ratio(tensordict), 0.1, self.training)


class ReadInTraining(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict) * (1.0 if self.training else 0.5)


class RunningMean(CategoricalMI):
    level = 0.0

    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        ratio = super().log_ratio(tensordict)
        if ratio.numel():
            self.level = 0.9 * self.level + 0.1 * float(ratio.detach().mean())
        return ratio - self.level


class StaleCopy(CategoricalMI):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.__dict__["_copies"] = [classifier(CategoricalMI, self.prior)]

    def logits(self, tensordict: TensorDictBase, *, noisy: bool = False) -> Tensor:
        copied = self if noisy else self._copies[0].to(history(tensordict).dtype)
        return copied.output(tensordict, noisy=noisy)


class WritesLogits(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        tensordict.set("logits", self.logits(tensordict))
        return super().log_ratio(tensordict)


class CentresInPlace(CategoricalMI):
    def sample_loss(self, tensordict: TensorDictBase) -> Tensor:
        history(tensordict).mul_(0.5)
        return super().sample_loss(tensordict)


class SinglePrecision(CategoricalMI):
    def log_ratio(self, tensordict: TensorDictBase) -> Tensor:
        return super().log_ratio(tensordict).to(torch.float32)


class TensorFigures(CategoricalMI):
    def figures(self, tensordict: TensorDictBase) -> dict[str, float]:
        return {"bound": self.bound(tensordict)}  # type: ignore[dict-item]


_PLANTED: list[tuple[type[CategoricalMI], Any, str]] = [
    (MissingLogPrior, CODES, "not the logarithm of a distribution over codes"),
    (WrongSign, CODES, "beyond its upper_limit"),
    (PriorAdded, SKEWED, "rank the codes of a row differently"),
    (Logits, CODES, "beyond its upper_limit"),
    (WrongAxis, CODES, "depends on the other rows"),
    (NotBelowZero, CODES, "not the logarithm of a distribution over codes"),
    (ClampedAbove, CODES, "not the logarithm of a distribution over codes"),
    (OffByOne, CODES, "rank the codes of a row differently"),
    (PriorOfWrongCode, SKEWED, "rank the codes of a row differently"),
    (UniformPriorAssumed, SKEWED, "rank the codes of a row differently"),
    (Bits, CODES, "beyond its upper_limit"),
    (BitsThroughout, CODES, "not the logarithm of a distribution over codes"),
    (Probabilities, CODES, "not the logarithm of a distribution over codes"),
    (Floored, CODES, "beyond its upper_limit"),
    (LimitTooSmall, CODES, "beyond its upper_limit"),
    (BatchNormalised, CODES, "depends on the other rows"),
    (Squeezed, CODES, r"returned the shape \(\) for a batch of \(1,\)"),
    (KeptDimension, CODES, r"returned the shape \(7, 1\) for a batch of \(7,\)"),
    (ReadWithNoise, CODES, "draws random numbers"),
    (BoundWithNoise, CODES, "bound is read with the noise"),
    (BoundAboveZero, CODES, "where the mean of log_ratio is"),
    (RandomNegatives, CODES, "draws random numbers"),
    (Dropout, CODES, "draws random numbers"),
    (ReadInTraining, CODES, "hangs on the module's training mode"),
    (RunningMean, CODES, "is not deterministic"),
    (StaleCopy, CODES, "it reads a copy"),
    (WritesLogits, CODES, "changed which entries the tensordict has"),
    (CentresInPlace, CODES, "sample_loss changed the values"),
    (SinglePrecision, CODES, "returned torch.float32 for parameters and features of torch.float64"),
    (TensorFigures, CODES, "no Python numbers"),
]

RATIO_FAULTS = [
    estimator_fault(kind, partial(classifier, prior=prior), sentence, posterior=True)
    for kind, prior, sentence in _PLANTED
]
