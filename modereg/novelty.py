"""Novelty of states by random network distillation: what a reward and a loss share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import functional, keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.networks import MLP
from modereg.reading import require_finite

__all__ = ["RandomNetworkDistillation", "RunningMoments", "read_features"]


def read_features(
    tensordict: TensorDictBase,
    in_keys: Sequence[NestedKey],
    reader: str,
    valid: Tensor | None = None,
) -> Tensor:
    """Return entries flattened beyond the batch and concatenated in their order.

    Args:
        tensordict: ``[*B]``, with entries ``[*B, ...]``.
        in_keys: the entries.
        reader: who reads, for the errors.
        valid: rows ``[*B]`` that count; the others are read as 0, whatever they hold.

    Returns:
        ``[*B, F]``.

    Raises:
        KeyMismatchError: if an entry is missing.
        NonFiniteError: if a valid row holds NaN or infinities.
    """
    require_finite(tensordict, in_keys, reader, valid=valid)
    values = []
    for key in in_keys:
        value, dims = tensordict.get(key), tensordict.batch_dims
        value = value.flatten(dims) if value.ndim > dims else value.unsqueeze(-1)
        if valid is not None:
            value = torch.where(valid.unsqueeze(-1), value, torch.zeros_like(value))
        values.append(value)
    return torch.cat(values, -1)


class RunningMoments(nn.Module):
    """Mean and variance of every sample seen so far, kept in buffers.

    They change in :meth:`update` only, in training and in evaluation mode alike. Before the first
    sample the mean is 0 and the variance 1.

    Args:
        shape: of one sample, ``[*S]``.
        dtype: of the moments; None is torch's default.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int] = (), dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=dtype))
        self.register_buffer("variance", torch.ones(tuple(shape), dtype=dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Add samples ``[m, *S]``; none change nothing."""
        if not len(samples):
            return
        moments = functional.pooled_moments(
            self.mean, self.variance, self.count, samples.to(self.mean)
        )
        for buffer, value in zip((self.mean, self.variance, self.count), moments, strict=True):
            buffer.copy_(value)

    @property
    def scale(self) -> Tensor:
        """Standard deviation, ``[*S]``; 1 where the samples are constant but for rounding."""
        std = self.variance.sqrt()
        return torch.where(std > 1e-6 * (1 + self.mean.abs()), std, torch.ones_like(std))

    @property
    def root_mean_square(self) -> Tensor:
        """Root mean square, ``[*S]``; 1 where every sample was 0, or there was none."""
        square = self.mean.square() + self.variance
        return torch.where(square > 0, square.sqrt(), torch.ones_like(square))


class RandomNetworkDistillation(nn.Module):
    r"""Novelty as the error of a predictor of a random network (RND, arXiv 1810.12894).

    Features are standardised by the moments of all that was observed and clipped, then a frozen
    random target f and a trained predictor map them to ``[*B, D]``. The novelty is the measure
    below, divided by its root mean square over all that was observed, so it is about 1 at first
    and falls where the predictor learns. (The paper divides by the standard deviation of the
    discounted novelties of an episode, which needs episodes in order: a constant in the
    coefficient.)

    The moments change in :meth:`observe` only, whatever the training mode.
    :class:`~modereg.objectives.DistillationLoss` calls it on each batch that it is given; call it
    yourself on random data before the first rewards. :class:`~modereg.transforms.NoveltyReward`
    reads and changes nothing. Give networks that act alike in training and evaluation mode.

    Args:
        predictor: trained, maps ``[*B, F]`` to ``[*B, D]``.
        target: its frozen target; gradients are turned off.
        in_features: F, the total length of the features.
        in_keys: their entries, flattened beyond the batch and concatenated in this order.
        measure: the novelty before its scale: ``"squared"``, the mean squared error
            :math:`\frac{1}{D} \|\hat f - f\|^2` of RND, or ``"root"``, its square root, as NovelD
            has it.
        input_clip: bound of the standardised features; infinite clips nothing.

    Raises:
        ConfigurationError: if an option cannot work, the predictor has nothing to train, or the
            two networks share parameters.
        ShapeError: if the two networks map features to different shapes.
    """

    def __init__(
        self,
        predictor: nn.Module,
        target: nn.Module,
        in_features: int,
        *,
        in_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        measure: Literal["squared", "root"] = "squared",
        input_clip: float = 5.0,
    ) -> None:
        super().__init__()
        if measure not in ("squared", "root"):
            raise ConfigurationError(
                f"expected measure to be one of ('squared', 'root'), got {measure!r}"
            )
        if not input_clip > 0:
            raise ConfigurationError(f"expected a positive input_clip, got {input_clip}")
        _check_networks(predictor, target, in_features)
        self.predictor, self.target = predictor, target.requires_grad_(False)
        self.in_features, self.in_keys = in_features, keys.key_list(in_keys)
        self.measure, self.input_clip = measure, input_clip
        dtype = next(predictor.parameters()).dtype
        self.input_moments = RunningMoments((in_features,), dtype)
        self.novelty_moments = RunningMoments((), dtype)

    @classmethod
    def mlp(
        cls,
        in_features: int,
        out_features: int = 64,
        hidden: Sequence[int] = (128, 128),
        **options: Any,
    ) -> RandomNetworkDistillation:
        """Make it from two MLPs with orthogonal weights.

        The predictor has one more hidden layer, so that it can follow the target.
        """
        target = MLP(in_features, out_features, hidden)
        predictor = MLP(in_features, out_features, (*hidden, *hidden[-1:]))
        for network in (target, predictor):
            network.apply(_orthogonal)
        return cls(predictor, target, in_features, **options)

    def features(
        self,
        tensordict: TensorDictBase,
        in_keys: Sequence[NestedKey] | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Read features, ``[*B, F]``, detached, of the networks' dtype and on their device.

        Args:
            tensordict: ``[*B]``.
            in_keys: entries to read in the place of its own.
            valid: rows ``[*B]`` that count; the others are read as 0.

        Raises:
            KeyMismatchError: if an entry is missing.
            NonFiniteError: if a valid row holds NaN or infinities.
            ShapeError: if there are not F of them.
        """
        chosen = self.in_keys if in_keys is None else in_keys
        x = read_features(tensordict, chosen, type(self).__name__, valid)
        if x.shape[-1] != self.in_features:
            raise ShapeError(
                f"expected {self.in_features} features, got {x.shape[-1]} under {chosen}; make "
                f"the distillation with in_features={x.shape[-1]} or name other entries"
            )
        return x.detach().to(self.input_moments.mean)

    def forward(self, features: Tensor) -> Tensor:
        """Return the squared error of features ``[*B, F]``, ``[*B]``; only the predictor learns."""
        x = self._standardized(features)
        with torch.no_grad():
            target = self.target(x)
        return functional.distillation_error(self.predictor(x), target)

    def observe(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Add features to the moments and return their error under the new ones.

        Args:
            features: ``[*B, F]`` with at least one batch dimension.
            valid: rows ``[*B]`` that count; None takes all.

        Returns:
            ``[*B]``, as :meth:`forward`.
        """
        rows = torch.ones_like(features[..., 0], dtype=torch.bool) if valid is None else valid
        self.input_moments.update(features[rows])
        error = self(features)
        self.novelty_moments.update(self._measured(error.detach()[rows]))
        return error

    @torch.no_grad()
    def novelty(self, features: Tensor) -> Tensor:
        """Return the novelty of features ``[*B, F]``, ``[*B]``, not negative."""
        return self.scaled(self(features))

    @torch.no_grad()
    def scaled(self, error: Tensor) -> Tensor:
        """Return the novelty that belongs to squared errors ``[*B]``."""
        return self._measured(error) / self.novelty_moments.root_mean_square

    def _measured(self, error: Tensor) -> Tensor:
        return error.sqrt() if self.measure == "root" else error

    def _standardized(self, features: Tensor) -> Tensor:
        moments = self.input_moments
        return ((features - moments.mean) / moments.scale).clamp(-self.input_clip, self.input_clip)


def _orthogonal(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight, 2**0.5)
        nn.init.zeros_(layer.bias)


def _check_networks(predictor: nn.Module, target: nn.Module, in_features: int) -> None:
    trained = [p for p in predictor.parameters() if p.requires_grad]
    if not trained:
        raise ConfigurationError(
            "expected a predictor with parameters to train, got none that requires gradients; "
            "give predictor first, then target"
        )
    if {id(p) for p in trained} & {id(p) for p in target.parameters()}:
        raise ConfigurationError(
            "expected a predictor and a target with parameters of their own, got shared ones; "
            "build two networks"
        )
    probe = trained[0].new_zeros(2, in_features)
    with torch.no_grad():
        shapes = predictor(probe).shape, target(probe).shape
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ShapeError(
            f"expected predictor and target to map [2, {in_features}] to one shape [2, D], got "
            f"{tuple(shapes[0])} and {tuple(shapes[1])}"
        )
