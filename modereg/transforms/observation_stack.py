"""The latest observations, for policies that read more than one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.suggestions import with_suggestion
from modereg.transforms._attaching import check_attached
from modereg.transforms._common import expand_mask, require

__all__ = ["ObservationStack"]


class ObservationStack(Transform):
    """The last ``steps`` values of some entries, the newest last, in entries of their own.

    Put it inside of :class:`~modereg.transforms.ActionChunk`, where a step is an environment step:
    a policy that is trained on two observations reads the last two of these, also between two
    decisions. At reset the first value is repeated, as diffusion policies do it. A policy with
    ``observation_steps`` above 1 reads the stacks where there are any, and the entries themselves
    stay what they are, for the steering policy, the critic and the discoverer.

    The memory is the entry itself: partial resets, workers and replay carry it, and the transform
    has no state.

    Args:
        in_keys: entries ``[*B, ...]``.
        steps: length S of a stack. The stack of ``key`` is
            ``modereg.keys.stacked(key)``, ``[*B, S, ...]``.

    Raises:
        ConfigurationError: if there are no keys, or a stack would have less than one value; on
            attaching, if the environment has the stacks, or outside of ActionChunk.
        KeyMismatchError: if the environment lacks an entry (on attaching).
    """

    def __init__(self, in_keys: Sequence[NestedKey] = (keys.OBSERVATION,), *, steps: int) -> None:
        in_keys = [in_keys] if isinstance(in_keys, str) else list(in_keys)
        if steps < 1 or not in_keys:
            raise ConfigurationError(
                f"expected at least one step and one key, got {steps} and {in_keys}"
            )
        super().__init__()
        self.stacks: dict[NestedKey, NestedKey] = {key: keys.stacked(key) for key in in_keys}
        self.steps = steps

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check that the environment has the entries."""
        super().set_container(container)
        if self.parent is None:
            return
        present = set(self.parent.full_observation_spec.keys(True, True))
        missing = [key for key in self.stacks if key not in present]
        if missing:
            sentence = (
                f"expected an environment with {missing} to stack, got one with "
                f"{sorted(map(str, present))}; rename the entries or pass other in_keys"
            )
            raise KeyMismatchError(with_suggestion(sentence, missing, present))
        check_attached(self, {f"in_keys than {key!r}": s for key, s in self.stacks.items()})

    def _repeat(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor:
        dim = tensordict.batch_dims
        value = require(tensordict, key, repr(self)).unsqueeze(dim)
        return value.repeat_interleave(self.steps, dim)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        for key, stack in self.stacks.items():
            tensordict_reset.set(stack, self._repeat(tensordict_reset, key))
        return tensordict_reset

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        reset = tensordict.get("_reset").view(tensordict.batch_size)
        for key, stack in self.stacks.items():
            fresh, old = self._repeat(tensordict_reset, key), tensordict.get(stack)
            tensordict_reset.set(stack, torch.where(expand_mask(reset, fresh), fresh, old))
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        dim = tensordict.batch_dims
        for key, stack in self.stacks.items():
            past = require(tensordict, stack, repr(self))
            value = require(next_tensordict, key, repr(self)).unsqueeze(dim)
            kept = past.narrow(dim, 1, self.steps - 1)
            next_tensordict.set(stack, torch.cat([kept, value], dim))
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is: in a replay buffer the stacks are data."""
        return tensordict

    def _add_specs(self, spec: Composite, entries: Composite) -> Composite:
        for key, stack in self.stacks.items():
            batch, shape = entries.shape, entries[key].shape
            full = (*batch, self.steps, *shape[len(batch) :])
            spec[stack] = Unbounded(full, dtype=entries[key].dtype, device=entries[key].device)
        return spec

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the stacks."""
        return self._add_specs(observation_spec, observation_spec)

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Add the stacks, so that steps and partial resets carry them."""
        return self._add_specs(state_spec, self.parent.full_observation_spec)

    def __repr__(self) -> str:
        """Name the entries and the length."""
        return f"ObservationStack({list(self.stacks)}, steps={self.steps})"
