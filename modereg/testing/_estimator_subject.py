"""The estimator under check, and the data that it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from modereg import functional
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior, Prior
from modereg.reading import in_next

__all__ = ["Channel", "MakeEstimator", "Subject", "in_next", "make_subject"]

MakeEstimator = Callable[[], RewardEstimator]

_SIGMA = 0.5
"""Noise of the Gaussian channel, for continuous codes of any size of one component."""


@dataclass(frozen=True)
class Subject:
    """How to make the estimator, and the shapes of the features that it reads."""

    make_estimator: MakeEstimator
    shapes: dict[NestedKey, tuple[int, ...]]
    name: str
    prior: Prior
    latent_key: NestedKey
    transitions: bool
    seed: int
    device: torch.device

    @property
    def width(self) -> int:
        """Total length F of the features."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def make(self) -> RewardEstimator:
        """Make the estimator, every time with the same parameters."""
        torch.manual_seed(self.seed)
        return self.make_estimator().to(self.device)

    def codes(self, *size: int) -> Tensor:
        """Draw codes of the prior, ``[*B]`` or ``[*B, D]``."""
        return self.prior.sample(torch.Size(size), self.device)

    def pack(self, flat: Tensor, latent: Tensor, after: Tensor | None = None) -> TensorDict:
        """Lay features ``[*B, F]`` and codes out as the estimator reads them, ``[*B]``.

        Args:
            flat: the features of the root.
            latent: the codes.
            after: those in ``next``, for an estimator that learns from transitions.
        """
        data = TensorDict({}, flat.shape[:-1], device=self.device).set(self.latent_key, latent)
        self._lay(data, flat, lambda key: key)
        if after is not None:
            self._lay(data, after, in_next)
        return data

    def _lay(self, data: TensorDict, flat: Tensor, place: Callable[[NestedKey], NestedKey]) -> None:
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()], -1)
        for (key, shape), part in zip(self.shapes.items(), parts, strict=True):
            data.set(place(key), part.reshape(*flat.shape[:-1], *shape))

    def arrived(self, data: TensorDict) -> TensorDict:
        """Return the features of ``next`` with the codes in one root, for reading, ``[*B]``."""
        if not self.transitions:
            return data
        seen = data.get("next").select(*self.shapes)
        return seen.set(self.latent_key, data.get(self.latent_key))

    def draw(self, *size: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> TensorDict:
        """Draw features that say nothing about the codes, ``[*B]``, with those of ``next``."""
        latent = self.codes(*size)
        flat, after = scale * torch.randn(2, *size, self.width, dtype=dtype, device=self.device)
        return self.pack(flat, latent, after)


def make_subject(
    make_estimator: MakeEstimator,
    features: int | Mapping[NestedKey, Sequence[int]],
    seed: int,
    device: torch.device | str,
) -> Subject:
    """Read from an estimator what its data have to look like.

    Raises:
        ValueError: if the shapes given are not those of the entries that it reads, or two that
            were made share parameters.
    """
    torch.manual_seed(seed)
    estimator, other = make_estimator(), make_estimator()
    if set(map(id, estimator.parameters())) & set(map(id, other.parameters())):
        raise ValueError(
            "expected make_estimator to make a new estimator at each call, got two that share "
            "parameters; make the network within it"
        )
    if isinstance(features, int):
        features = dict.fromkeys(estimator.in_keys[:1], (features,))
    if list(features) != list(estimator.in_keys):
        raise ValueError(
            f"expected a shape of each of {estimator.in_keys}, in this order, got those of "
            f"{list(features)}; pass features={{key: shape, ...}}"
        )
    return Subject(
        make_estimator,
        {key: tuple(shape) for key, shape in features.items()},
        type(estimator).__name__,
        estimator.prior,
        estimator.latent_key,
        estimator.transitions,
        seed,
        torch.device(device),
    )


class Channel:
    r"""Features that say about the code what is known in closed form.

    A discrete code z is replaced by another of the support with probability e, evenly, and shown
    as a point of its own (the K-ary symmetric channel). A continuous one is seen in Gaussian noise,
    for which :math:`I \le d/2 \log(1 + P / \sigma^2)` with power P in each of d components, equal
    for a normal prior (Shannon, 1948).

    Args:
        subject: what reads the features.
        error: e.
    """

    def __init__(self, subject: Subject, error: float = 0.0) -> None:
        self.subject, self.error = subject, error
        self.turn = torch.linalg.qr(torch.randn(subject.width, subject.width))[0].to(subject.device)
        prior = subject.prior
        if isinstance(prior, CategoricalPrior):
            self.support = prior.probs.nonzero().squeeze(-1)
            self.points = self._embed(_points(prior.probs.numel(), subject.width))
            self.truth = float(functional.mutual_information(self._table(prior.probs)))
        else:
            self.power = float(subject.codes(4096).square().mean())
            seen = min(prior.feature_dim, subject.width)
            self.truth = 0.5 * seen * math.log1p(1.0 / _SIGMA**2)

    def _table(self, probs: Tensor) -> Tensor:
        """Return the joint probabilities of code and point, ``[K, K]`` float64."""
        others = torch.zeros(len(probs), len(probs), dtype=torch.float64)
        inside = self.support.cpu()
        others[inside[:, None], inside] = self.error / max(len(inside) - 1, 1)
        rows = others.fill_diagonal_(1.0 - self.error)
        return probs.cpu()[:, None] * rows

    def _embed(self, values: Tensor) -> Tensor:
        """Place vectors ``[*B, D]`` into F dimensions, turned; what does not fit is left out."""
        width = self.subject.width
        wide = values.new_zeros(*values.shape[:-1], width)
        kept = min(width, values.shape[-1])
        wide[..., :kept] = values[..., :kept]
        return wide.to(self.turn) @ self.turn

    def show(self, latent: Tensor) -> Tensor:
        """Draw the features of codes, ``[N, F]``."""
        if latent.is_floating_point():
            seen = self._embed(latent / self.power**0.5)
            return seen + _SIGMA * torch.randn_like(seen)
        codes = latent
        if self.error and len(self.support) > 1:
            others = torch.randint(1, len(self.support), latent.shape, device=latent.device)
            place = torch.searchsorted(self.support.to(latent.device), latent)
            replaced = self.support.to(latent.device)[(place + others) % len(self.support)]
            flips = torch.rand(latent.shape, device=latent.device) < self.error
            codes = torch.where(flips, replaced, latent)
        seen = self.points[codes]
        return seen + 0.02 * torch.randn_like(seen)

    def draw(self, rows: int, names: Tensor | None = None) -> TensorDict:
        """Draw features and codes, ``[N]``.

        Args:
            rows: N.
            names: other names of the codes ``[K]``, under which their features are shown.
        """
        latent = self.subject.codes(rows)
        seen = self.show(latent if names is None else names[latent])
        if not self.subject.transitions:
            return self.subject.pack(seen, latent)
        before = 0.1 * torch.randn_like(seen)
        return self.subject.pack(before, latent, before + seen)


def _points(number: int, width: int) -> Tensor:
    """Return points at least about one apart: axes, or a circle, or a line, ``[K, D]``."""
    if width >= number:
        return 2.0 * torch.eye(number)
    turns = torch.arange(number) / number
    if width == 1:
        return 2.0 * (number * turns.unsqueeze(-1) - (number - 1) / 2)
    radius = max(2.0, number / torch.pi)
    angles = 2.0 * torch.pi * turns
    return radius * torch.stack([angles.cos(), angles.sin()], -1)
