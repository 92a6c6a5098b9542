"""Normalisation of observations and actions, kept in buffers so that it travels with the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError

__all__ = ["Normalizer"]

Mode = Literal["minmax", "meanstd"]
Constant = Literal["centered", "collapsed"]


Statistics = Mapping[str, Any]
"""Name -> values of ``min``, ``max``, ``mean`` or ``std``, as in a LeRobot data set."""

LEAST = {"minmax": 0.5e-4, "meanstd": 1e-4}
"""Scale below which diffusion_policy leaves a dimension as it is (its ``range_eps``)."""

_STATISTICS = {"minmax": ("min", "max"), "meanstd": ("mean", "std")}


class Normalizer(nn.Module):
    """Elementwise affine maps between physical and normalised units.

    Normalised is ``(x - shift) / scale``. Before :meth:`fit` every shift is 0 and every scale 1.
    A dimension that is constant in the data has no scale, and libraries differ in what they do:

    - ``"centered"`` (diffusion_policy, and what a policy made here is trained with): the constant
      is 0 in normalised units, at scale 1. In statistics that others took, a dimension counts as
      constant from a range or standard deviation below 1e-4 on, as in diffusion_policy.
    - ``"collapsed"`` (LeRobot, DPPO): every value is -1 under ``"minmax"`` and 0 under
      ``"meanstd"``, and whatever is decoded is the constant. Its scale is kept as 0.

    Args:
        observation_shapes: shape of each observation at one step, without history; statistics are
            taken for each element, over episodes and history.
        action_dim: length A of an action; statistics are taken over episodes and the horizon.
        mode: ``"minmax"`` maps the data to [-1, 1]; ``"meanstd"`` to mean 0 and standard deviation
            1.
        constant: see above.

    Raises:
        ConfigurationError: if the mode or the constant is none of these.
    """

    action_shift: Tensor
    action_scale: Tensor

    def __init__(
        self,
        observation_shapes: Sequence[Sequence[int]],
        action_dim: int,
        mode: Mode = "minmax",
        constant: Constant = "centered",
    ) -> None:
        super().__init__()
        if mode not in _STATISTICS:
            raise ConfigurationError(f"expected mode 'minmax' or 'meanstd', got {mode!r}")
        if constant not in ("centered", "collapsed"):
            raise ConfigurationError(
                f"expected constant 'centered' or 'collapsed', got {constant!r}"
            )
        self.mode: Mode = mode
        self.constant: Constant = constant
        self.observation_shapes = [tuple(shape) for shape in observation_shapes]
        self.action_dim = action_dim
        for index, shape in enumerate(self.observation_shapes):
            self.register_buffer(f"observation_shift_{index}", torch.zeros(shape))
            self.register_buffer(f"observation_scale_{index}", torch.ones(shape))
        self.register_buffer("action_shift", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))

    @classmethod
    def from_statistics(
        cls,
        observations: Sequence[Statistics],
        action: Statistics,
        mode: Mode = "minmax",
        constant: Constant | None = None,
    ) -> Normalizer:
        """Make a normalizer from the statistics that came with a policy or a data set.

        Args:
            observations: of each observation at one step, in the order of the policy's observation
                keys: ``"min"`` and ``"max"``, or ``"mean"`` and ``"std"``, each of the shape of the
                observation; lists, arrays or tensors.
            action: the same of an action, ``[A]``.
            mode: which of them the policy was trained with.
            constant: what the policy's library does with a dimension that is constant; needed where
                there is one.

        Raises:
            ConfigurationError: if the mode is another one, a statistic that it needs is missing,
                or a dimension is constant and ``constant`` is not given.
            ShapeError: if a pair of them disagrees in shape.
        """
        if mode not in _STATISTICS:
            raise ConfigurationError(
                f"expected the mode of the statistics, 'minmax' or 'meanstd', got {mode!r}"
            )
        pairs = [_shift_and_scale(given, mode, constant) for given in (*observations, action)]
        *seen, (action_shift, _) = pairs
        shapes = [shift.shape for shift, _ in seen]
        normalizer = cls(shapes, len(action_shift), mode, constant or "centered")
        names = [f"observation_{{}}_{index}" for index in range(len(seen))]
        for name, (shift, scale) in zip([*names, "action_{}"], pairs, strict=True):
            normalizer.get_buffer(name.format("shift")).copy_(shift)
            normalizer.get_buffer(name.format("scale")).copy_(scale)
        return normalizer

    @torch.no_grad()
    def fit(
        self, observations: Sequence[Tensor], chunks: Tensor, mask: Tensor | None = None
    ) -> None:
        """Take the statistics of data.

        Args:
            observations: ``[N, ...]`` each, in the order of the policy's observation keys.
            chunks: ``[N, H, A]``.
            mask: ``[N, H]`` bool, False where a chunk is padded; None counts every action.

        Raises:
            ShapeError: if an observation does not end with its shape, or their number is another.
            NonFiniteError: if the data is not finite.
        """
        if len(observations) != len(self.observation_shapes):
            raise ShapeError(
                f"expected {len(self.observation_shapes)} observations, got {len(observations)}"
            )
        for index, value in enumerate(observations):
            self._fit_one(f"observation_{{}}_{index}", value)
        self._fit_one("action_{}", chunks if mask is None else chunks[mask])

    def options(self) -> dict[str, Any]:
        """Return the arguments that this normalizer was made with, JSON-able."""
        return {
            "observation_shapes": [list(shape) for shape in self.observation_shapes],
            "action_dim": self.action_dim,
            "mode": self.mode,
            "constant": self.constant,
        }

    def _fit_one(self, name: str, data: Tensor) -> None:
        shift, scale = self.get_buffer(name.format("shift")), self.get_buffer(name.format("scale"))
        dims = data.ndim - shift.ndim
        if dims < 1 or data.shape[dims:] != shift.shape:
            raise ShapeError(
                f"expected data for {name.format('shift')} of shape [N, ..., "
                f"{', '.join(map(str, shift.shape))}], got {tuple(data.shape)}"
            )
        if not bool(torch.isfinite(data).all()):
            raise NonFiniteError(f"the data for {name.format('shift')} is not finite")
        flat = data.flatten(0, dims - 1).double()
        new_shift, new_scale = _statistics(flat, self.mode, self.constant)
        shift.copy_(new_shift)
        scale.copy_(new_scale)

    def normalize_observation(self, index: int, value: Tensor) -> Tensor:
        """Return ``[*B, *shape]`` in normalised units; history steps may precede the shape."""
        shift = self.get_buffer(f"observation_shift_{index}")
        return self._scaled(value - shift, self.get_buffer(f"observation_scale_{index}"))

    def _scaled(self, centered: Tensor, scale: Tensor) -> Tensor:
        if self.constant == "centered":
            return centered / scale
        end = -1.0 if self.mode == "minmax" else 0.0
        return torch.where(scale == 0, end, centered / scale.where(scale != 0, 1.0))

    def normalize_action(self, action: Tensor) -> Tensor:
        """Return actions ``[..., A]`` in normalised units."""
        return self._scaled(action - self.action_shift, self.action_scale)

    def denormalize_action(self, action: Tensor) -> Tensor:
        """Return actions ``[..., A]`` in physical units."""
        return torch.addcmul(self.action_shift, action, self.action_scale)


def _statistics(data: Tensor, mode: Mode, constant: Constant) -> tuple[Tensor, Tensor]:
    """Shift and scale of data ``[N, *shape]``."""
    if mode == "meanstd":
        shift, scale = data.mean(0), data.std(0, correction=0)
    else:
        shift, scale = _center(data.amin(0), data.amax(0))
    return shift, _without_constants(shift, scale, constant)


def _shift_and_scale(
    statistics: Statistics, mode: Mode, constant: Constant | None
) -> tuple[Tensor, Tensor]:
    """Shift and scale from the pair of statistics that a mode needs."""
    names = _STATISTICS[mode]
    missing = [name for name in names if name not in statistics]
    if missing:
        raise ConfigurationError(
            f"expected the statistics {' and '.join(names)} for mode={mode!r}, got "
            f"{sorted(statistics)}; add {' and '.join(missing)} or choose the other mode"
        )
    first, second = (torch.as_tensor(statistics[name], dtype=torch.float64) for name in names)
    if first.shape != second.shape:
        raise ShapeError(
            f"expected {' and '.join(names)} of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    shift, scale = _center(first, second) if mode == "minmax" else (first, second)
    least = 0.0 if constant == "collapsed" else LEAST[mode]
    return shift, _without_constants(shift, scale, constant, least)


def _center(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return (high + low) / 2, (high - low) / 2


def _without_constants(
    shift: Tensor, scale: Tensor, constant: Constant | None, least: float = 0.0
) -> Tensor:
    """Give dimensions whose spread is rounding, or below the least, a scale by convention."""
    is_constant = (scale <= 1e-6 * shift.abs()) | (scale < least)
    if constant is None and bool(is_constant.any()):
        raise ConfigurationError(
            f"expected statistics that vary in each dimension, got constant ones, or nearly, at "
            f"{is_constant.nonzero().squeeze(-1).tolist()}; say what the policy's library does "
            "there: constant='collapsed' (LeRobot, DPPO) or 'centered' (diffusion_policy)"
        )
    return torch.where(is_constant, 0.0 if constant == "collapsed" else 1.0, scale)
