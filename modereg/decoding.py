"""What a steered environment plays of an action, told without a step: for critics of chunks."""

from __future__ import annotations

from typing import TypeVar

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase, Transform

from modereg.errors import ConfigurationError
from modereg.transforms import ActionChunk, NoiseAction
from modereg.transforms._action_specs import clip_to

__all__ = ["ActionClip", "ChunkDecoder", "find_transform"]

Kind = TypeVar("Kind", bound=Transform)


class ChunkDecoder:
    """From what a steering policy emits to the chunk that is executed, at any states.

    What a step of the environment does, and writes as ``executed_chunk``: the noise basis, the
    frozen policy, the residual where there is one, the actions that are played, and their clipping.
    What a residual of single steps would do to them is not known before they are played.

    Args:
        env: steered environment.

    Raises:
        ConfigurationError: if the environment has no :class:`~modereg.transforms.NoiseAction`.
    """

    def __init__(self, env: EnvBase) -> None:
        self._noise = find_transform(env, NoiseAction)
        self._chunk = find_transform(env, ActionChunk)
        self._spec = self._chunk.parent.full_action_spec_unbatched[self._chunk.action_key]

    @property
    def action(self) -> TensorSpec:
        """Spec of an action ``[A]``."""
        return self._spec

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries of a state that are read."""
        moved_by = getattr(self._noise.residual, "in_keys", [])
        return list(dict.fromkeys([*self._noise.decodes.steered_entries, *moved_by]))

    def __call__(self, state: TensorDictBase, action: Tensor) -> Tensor:
        """Return what is executed, ``[*B, execute, A]``, of actions at states ``[*B]``."""
        return self.executed(self._moved(state, self.decode(state, action)))

    def decode(self, state: TensorDictBase, action: Tensor) -> Tensor:
        """Return the base's own chunk, ``[*B, H, A]``, not yet moved or clipped."""
        return self._noise.decode(state, self._noise.lift(action)).to(self._spec.dtype)

    @torch.no_grad()
    def unmoved(self, state: TensorDictBase, chunk: Tensor) -> Tensor:
        """Return the base's own chunk, ``[*B, H, A]``, of one that the residual moved."""
        return 2.0 * chunk - self._moved(state, chunk)

    def _moved(self, state: TensorDictBase, chunk: Tensor) -> Tensor:
        residual = self._noise.residual
        return chunk if residual is None else residual(state, chunk)

    def executed(self, chunk: Tensor) -> Tensor:
        """Return what is executed of a chunk, ``[*B, execute, A]``, with its gradient."""
        window = chunk.narrow(-2, self._chunk.offset, self._chunk.execute)
        return clip_to(self._spec.to(chunk.device), window)


class ActionClip:
    """What is played of an action as it is: it is clipped. For critics of single steps.

    Args:
        action: spec of an action ``[A]``.
    """

    def __init__(self, action: TensorSpec) -> None:
        self._spec = action
        self.in_keys: list[NestedKey] = []

    def executed(self, actions: Tensor) -> Tensor:
        """Return what is played of actions ``[*B, n, A]``, with their gradient."""
        return clip_to(self._spec.to(actions.device), actions)


def find_transform(env: EnvBase, kind: type[Kind]) -> Kind:
    """Return the transform of a kind of a steered environment.

    Raises:
        ConfigurationError: if it has none.
    """
    for transform in getattr(env, "transform", ()):
        if isinstance(transform, kind):
            return transform
    raise ConfigurationError(
        f"expected a steered environment, got {type(env).__name__} without {kind.__name__}; make "
        "it by steer_env or wrap"
    )
