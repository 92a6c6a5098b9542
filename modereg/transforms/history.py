"""What an episode has looked like so far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.suggestions import with_suggestion
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import expand_mask, require, sibling

__all__ = ["History"]


class History(Transform):
    """The values of some entries at the decision boundaries so far, in raw units.

    Index 0 is the value at reset; what is still to come repeats the latest value, so the length is
    the same at every decision. A mode that shows only in the order of events is visible here where
    the current state hides it.

    The memory is the entry itself, with the number of values beside it: so partial resets, workers
    and replay carry it, and the transform has no state.

    Args:
        in_keys: entries ``[*B, ...]`` that are flattened beyond the batch and concatenated, to
            ``[*B, D]``; integers become torch's default floating-point type.
        out_key: entry that is written, ``[*B, (length + 1) * D]``; its count of decisions stands
            beside it under the same name with ``_length``, ``[*B, 1]`` int64.
        length: decisions L that fit.
        dims: which of the concatenated values to keep; None keeps all D.
        overflow: what an episode of more than L decisions does: ``"raise"``, or keep a
            ``"window"`` of the latest L + 1 values, which forgets its start.

    Raises:
        ConfigurationError: if the length is not positive, no keys are given, or ``overflow`` is
            unknown; on attaching, if the environment has these entries, or inside of ActionChunk;
            in a step, if an episode outlives the length.
        KeyMismatchError: if the environment lacks an entry (on attaching).
        ShapeError: if ``dims`` does not fit the entries (on attaching).
    """

    def __init__(
        self,
        in_keys: Sequence[NestedKey] = (keys.OBSERVATION,),
        out_key: NestedKey = keys.HISTORY,
        *,
        length: int,
        dims: Sequence[int] | None = None,
        overflow: Literal["raise", "window"] = "raise",
    ) -> None:
        in_keys = [in_keys] if isinstance(in_keys, str) else list(in_keys)
        if length < 1 or not in_keys:
            raise ConfigurationError(
                f"expected a positive length and at least one key, got {length} and {in_keys}"
            )
        if overflow not in ("raise", "window"):
            raise ConfigurationError(f"expected overflow of 'raise' or 'window', got {overflow!r}")
        super().__init__()
        self.overflow = overflow
        self.feature_keys, self.out_key, self.length = in_keys, out_key, length
        last = out_key if isinstance(out_key, str) else out_key[-1]
        self.count_key = sibling(out_key, f"{last}_length")
        self.dims = None if dims is None else list(dims)
        self.register_buffer("_slots", torch.arange(length + 1), persistent=False)

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that it fits the environment."""
        super().set_container(container)
        if self.parent is not None:
            self._width(self.parent.full_observation_spec)
        check_attached(self, {"out_key": self.out_key, "out_key (its count)": self.count_key})

    def _read(self, tensordict: TensorDictBase) -> Tensor:
        batch_dims = tensordict.batch_dims
        values = [
            require(tensordict, key, repr(self)).flatten(batch_dims) for key in self.feature_keys
        ]
        value = values[0] if len(values) == 1 else torch.cat(values, -1)
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        return value if self.dims is None else value[..., self.dims]

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        value = self._read(tensordict_reset)
        repeats = [1] * (value.ndim - 1) + [self.length + 1]
        tensordict_reset.set(self.out_key, value.repeat(repeats))
        count = value.new_zeros((*value.shape[:-1], 1), dtype=torch.int64)
        return tensordict_reset.set(self.count_key, count)

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        reset = tensordict.get("_reset").view(tensordict.batch_size)
        old = {key: tensordict.get(key) for key in (self.out_key, self.count_key)}
        tensordict_reset = self._reset(tensordict, tensordict_reset)
        for key, value in old.items():
            fresh = tensordict_reset.get(key)
            tensordict_reset.set(key, torch.where(expand_mask(reset, value), fresh, value))
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        value = self._read(next_tensordict)
        past = require(tensordict, self.out_key, repr(self))
        count = require(tensordict, self.count_key, repr(self)) + 1
        slots = past.view(*past.shape[:-1], self.length + 1, value.shape[-1])
        over = count > self.length
        if bool(over.any()):
            slots = self._overflow(tensordict, slots, over)
        new = (self._slots >= count.clamp_max(self.length)).unsqueeze(-1)
        history = torch.where(new, value.unsqueeze(-2), slots).flatten(-2)
        next_tensordict.set(self.out_key, history)
        return next_tensordict.set(self.count_key, count)

    def _overflow(self, tensordict: TensorDictBase, slots: Tensor, over: Tensor) -> Tensor:
        """Make room for a further value in the rows ``[*B, 1]`` that have none, or refuse them."""
        if self.overflow == "window":
            return torch.where(over.unsqueeze(-1), slots.roll(-1, -2), slots)
        ended = tensordict.get(sibling(self.out_key, "done"), None)  # nothing reads rows that ended
        alive = over if ended is None else over & ended.view_as(over).logical_not()
        if bool(alive.any()):
            raise ConfigurationError(
                f"expected episodes of at most {self.length} decisions, got {int(alive.sum())} "
                "that go on; give History (or wrap, as max_decisions) the decisions of the longest "
                "episode, or History overflow='window', which forgets the start"
            )
        return slots

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is: in a replay buffer the history is data."""
        return tensordict

    def _width(self, spec: Composite) -> tuple[int, torch.dtype]:
        present = set(spec.keys(True, True))
        missing = [key for key in self.feature_keys if key not in present]
        if missing:
            sentence = (
                f"the history reads {missing}, which the environment lacks (it has "
                f"{sorted(map(str, present))}); rename the entries or pass other in_keys"
            )
            raise KeyMismatchError(with_suggestion(sentence, missing, present))
        total = sum(spec[key].shape[len(spec.shape) :].numel() for key in self.feature_keys)
        dtype = reduce(torch.promote_types, [spec[key].dtype for key in self.feature_keys])
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        if self.dims is None:
            return total, dtype
        if not self.dims or min(self.dims) < 0 or max(self.dims) >= total:
            raise ShapeError(f"expected dims in [0, {total}), got {self.dims}")
        return len(self.dims), dtype

    def _add_specs(self, spec: Composite, width: int, dtype: torch.dtype) -> Composite:
        shape = (*spec.shape, (self.length + 1) * width)
        spec[self.out_key] = Unbounded(shape=shape, dtype=dtype, device=spec.device)
        spec[self.count_key] = Unbounded(
            shape=(*spec.shape, 1), dtype=torch.int64, device=spec.device
        )
        return spec

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the history and its count."""
        return self._add_specs(observation_spec, *self._width(observation_spec))

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Add the history and its count, so that steps and partial resets carry them."""
        return self._add_specs(state_spec, *self._width(self.parent.full_observation_spec))

    def __repr__(self) -> str:
        """Name the entries and the length."""
        return f"History({self.feature_keys}, length={self.length})"
