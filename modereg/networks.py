"""Small networks for steering, value and inference: an MLP with standardised sine features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.functional.paths import along_path

__all__ = ["MLP", "Ensemble", "EnsembleMLP", "FourierFeatures", "InputNoise", "flat_features"]

RELATIVE_NOISE = 0.2
"""Default noise on an inference model's input, in units of the features' common scale."""


def flat_features(inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate inputs that are batched alike, ``[*B, ...]`` each, to ``[*B, sum]``.

    The input of the fewest dimensions is taken for a vector, ``[*B, D]``; the others, such as
    observations with a history, are flattened beyond the batch.
    """
    if len(inputs) == 1:
        return inputs[0]
    batch_dims = min(value.ndim for value in inputs) - 1
    return torch.cat([value.flatten(batch_dims) for value in inputs], -1)


def _flat(inputs: Sequence[Tensor], size: int, dtype: torch.dtype) -> Tensor:
    """Return inputs side by side, ``[*B, size]``."""
    x = flat_features(inputs).to(dtype)
    if x.shape[-1] != size:
        raise ShapeError(
            f"expected inputs of total length {size}, got {x.shape[-1]} from shapes "
            f"{[tuple(value.shape) for value in inputs]}"
        )
    return x


def _check_data(data: Tensor) -> None:
    """Refuse data without a mean: its NaN would stay in the network's buffers, unseen."""
    if not len(data):
        raise ConfigurationError(
            "expected at least one row to standardise by, got none; collect episodes first"
        )
    if not bool(torch.isfinite(data).all()):
        raise NonFiniteError(
            "expected finite values to standardise by, got NaN or infinity in column "
            f"{int((~torch.isfinite(data)).any(0).nonzero()[0])}; look at the observations"
        )


class FourierFeatures(nn.Module):
    """Standardised inputs beside sines and cosines of them at octaves.

    The shift and scale are buffers, set once from data by :meth:`fit`; before that they are 0 and
    1. An MLP on these features follows a position far more closely than one on the position.

    Args:
        in_features: length of the input.
        octaves: number of frequencies, pi/4 * 2^i for a standardised input; 0 only standardises.
    """

    shift: Tensor
    scale: Tensor
    frequencies: Tensor

    def __init__(self, in_features: int, octaves: int = 4) -> None:
        super().__init__()
        if octaves < 0:
            raise ConfigurationError(f"expected a non-negative number of octaves, got {octaves}")
        self.register_buffer("shift", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))
        frequencies = torch.pi / 4 * 2.0 ** torch.arange(octaves)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.out_features = in_features * (1 + 2 * octaves)

    @torch.no_grad()
    def fit(self, data: Tensor) -> None:
        """Take mean and standard deviation of data ``[N, in_features]``; constants keep scale 1.

        Raises:
            ConfigurationError: if there is no row.
            NonFiniteError: if a value is not finite.
        """
        _check_data(data)
        std = data.std(0, correction=min(1, len(data) - 1))
        self.shift.copy_(data.mean(0))
        self.scale.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[*B, out_features]`` of ``x [*B, in_features]``."""
        x = (x - self.shift) / self.scale
        if not len(self.frequencies):
            return x
        angles = (x.unsqueeze(-1) * self.frequencies).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], -1)


class MLP(nn.Module):
    """A multilayer perceptron on the concatenation of its inputs.

    Args:
        in_features: total length of the inputs.
        out_features: length of the output.
        hidden: widths of the hidden layers.
        octaves: if positive, the inputs but the last ``plain_features`` ones pass through
            :class:`FourierFeatures`.
        plain_features: how many of the last input features are left as they are (one-hot codes).
        activation: class of the activation.
        zero_init: whether the last layer starts at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        octaves: int = 0,
        plain_features: int = 0,
        activation: type[nn.Module] = nn.Mish,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= plain_features < in_features:
            raise ShapeError(f"expected plain_features in [0, {in_features}), got {plain_features}")
        self.in_features, self.plain_features = in_features, plain_features
        self.out_features = out_features
        self.features = FourierFeatures(in_features - plain_features, octaves)
        widths = [self.features.out_features + plain_features, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        last = nn.Linear(widths[-1], out_features)
        if zero_init:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``[*B, out_features]``; several inputs are concatenated in their order.

        They are cast to the dtype of the weights.
        """
        x = _flat(inputs, self.in_features, cast(nn.Linear, self.layers[0]).weight.dtype)
        split = self.in_features - self.plain_features
        if self.plain_features:
            x = torch.cat([self.features(x[..., :split]), x[..., split:]], -1)
        else:
            x = self.features(x)
        return self.layers(x)


class Ensemble(nn.Module):
    """Several MLPs of one shape, evaluated at once: ``[N, D]``, or ``[E, N, D]``, to ``[E, N, O]``.

    Args:
        members: number E of networks.
        widths: of the input, the hidden layers and the output.
        layer_norm: whether each hidden layer is normalised before its activation, which keeps a
            Q-function from growing where it was never fitted (RLPD, arXiv 2302.02948, 4.2).
    """

    def __init__(self, members: int, widths: Sequence[int], *, layer_norm: bool = False) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            bound = fan_in**-0.5
            weight = torch.empty(members, fan_in, fan_out).uniform_(-bound, bound)
            self.weights.append(nn.Parameter(weight))
            bias = torch.empty(members, 1, fan_out).uniform_(-bound, bound)
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[E, N, O]`` of ``[N, D]``, the same for each, or of ``[E, N, D]``."""
        if x.ndim == 2:
            x = x.expand(len(self.weights[0]), *x.shape)
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                x = nn.functional.layer_norm(x, x.shape[-1:]) if self.layer_norm else x
                x = nn.functional.mish(x)
        return x


class EnsembleMLP(nn.Module):
    """An :class:`Ensemble` on the concatenation of its inputs, of one output each.

    Args:
        in_features: total length of the inputs.
        members: number E of networks.
        hidden: widths of the hidden layers.
        octaves: of the :class:`FourierFeatures` of the inputs but the last ``plain_features`` ones.
        plain_features: how many of the last input features are left as they are.
        scaled_features: how many of these, the very last ones, are standardised all the same, by
            the data that ``scaled.fit`` is given.
    """

    def __init__(
        self,
        in_features: int,
        members: int,
        hidden: Sequence[int] = (128, 128),
        *,
        octaves: int = 0,
        plain_features: int = 0,
        scaled_features: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= plain_features < in_features:
            raise ShapeError(f"expected plain_features in [0, {in_features}), got {plain_features}")
        self.in_features, self.plain_features = in_features, plain_features
        self.features = FourierFeatures(in_features - plain_features, octaves)
        self.scaled = FourierFeatures(scaled_features, 0)
        widths = [self.features.out_features + plain_features, *hidden, 1]
        self.networks = Ensemble(members, widths, layer_norm=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``[*B, E]``; several inputs are concatenated in their order."""
        x = _flat(inputs, self.in_features, self.networks.weights[0].dtype)
        split = self.in_features - self.plain_features
        last = self.in_features - self.scaled.out_features
        parts = [self.features(x[..., :split]), x[..., split:last], self.scaled(x[..., last:])]
        x = torch.cat(parts, -1)
        values = self.networks(x.flatten(0, -2) if x.ndim > 1 else x[None]).squeeze(-1)
        return values.mT.reshape(*x.shape[:-1], len(values))


class InputNoise(nn.Module):
    """A network with Gaussian noise on its input, in the input's own units.

    The noise is drawn only where ``noisy=True`` is passed, never by the module's training mode:
    an inference model is trained with it and read without it.

    Args:
        network: maps ``[*B, F]`` to ``[*B, K]``.
        std: standard deviation of the noise, kept in a buffer, so that it is saved with the rest;
            None: 0.2 of the features' common scale, once :meth:`fit` has set that.
        entry_length: where the features are a history, length d of an entry: they are read
            :func:`along their path <modereg.functional.along_path>`, so that speed does not count;
            0 reads them as they are. It is saved with the rest.

    Raises:
        ConfigurationError: if the noise is negative.
    """

    input_std: Tensor
    entry_length: Tensor

    def __init__(self, network: nn.Module, std: float | None = None, entry_length: int = 0) -> None:
        super().__init__()
        self.network, self.relative = network, std is None
        self.register_buffer("input_std", torch.zeros(()))
        self.register_buffer("entry_length", torch.tensor(entry_length))
        self._entry_length = entry_length
        self.std = RELATIVE_NOISE if std is None else std

    @property
    def std(self) -> float:
        """Standard deviation of the noise, in the input's units."""
        return float(self.input_std)

    @std.setter
    def std(self, value: float) -> None:
        if not 0 <= value < float("inf"):
            raise ConfigurationError(f"expected a non-negative, finite noise, got {value}")
        self.input_std.fill_(value)

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Set the common scale of an :class:`MLP`'s features, and the noise where it is relative.

        The shift is the mean of every feature; the scale is *one* number, the root of the mean
        variance over features. It keeps the geometry: dividing each feature by its own deviation
        would inflate features that hardly vary.

        Args:
            features: ``[N, F]``.

        Raises:
            ConfigurationError: if the network is no MLP, which has a place for the scale, or if
                there is no row.
            NonFiniteError: if a feature is not finite.
        """
        _check_data(features)
        if not isinstance(self.network, MLP):
            raise ConfigurationError(
                f"expected an MLP to scale the features of, got {type(self.network).__name__}; "
                "scale the input in your own network instead"
            )
        features = self.along_path(features)
        variance = features.var(0, correction=min(1, len(features) - 1))
        scale = variance.mean().sqrt().clamp_min(1e-6)
        self.network.features.shift.copy_(features.mean(0))
        self.network.features.scale.fill_(float(scale))
        if self.relative:
            self.std = RELATIVE_NOISE * float(scale)

    def forward(self, *inputs: Tensor, noisy: bool = False) -> Tensor:
        """Return the network's output, with noise on its input if asked."""
        x = self.along_path(flat_features(inputs))
        if noisy:
            x = x + self.input_std * torch.randn(x.shape, device=x.device, dtype=self._dtype(x))
        return self.network(x)

    def along_path(self, features: Tensor) -> Tensor:
        """Return features ``[*B, F]`` as they are read."""
        return along_path(features, self._entry_length) if self._entry_length else features

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        before = torch.zeros_like(self.entry_length)  # of networks that read them as they are
        length = state_dict.setdefault(f"{prefix}entry_length", before)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._entry_length = int(length)

    def _dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype if x.is_floating_point() else self.input_std.dtype
