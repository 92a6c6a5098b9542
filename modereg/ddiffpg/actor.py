"""A diffusion actor that is told the mode, or left free, and taught by target actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.policies import GenerativePolicy

__all__ = ["ActionBox", "Change", "Commanded", "ModeActor"]


class Cloneable(Protocol):
    """A policy that is trained on chunks."""

    def cloning_loss(self, chunk: Tensor, *observations: Tensor) -> Tensor:
        """Return the loss of chunks ``[n, H, A]``."""


class ActionBox:
    """Maps the bounds of an environment's actions to [-1, 1] and back.

    Args:
        low: ``[A]``.
        high: ``[A]``.
        horizon: H, actions of a chunk.

    Raises:
        ConfigurationError: if the actions are not bounded.
    """

    def __init__(self, low: Tensor, high: Tensor, horizon: int) -> None:
        bounded = bool(torch.isfinite(low).all() and torch.isfinite(high).all())
        if not bounded or not bool((low < high).all()):
            raise ConfigurationError(
                f"expected actions between finite bounds, got {low.tolist()} to {high.tolist()}; "
                "bound them with a transform such as torchrl's ActionScaling"
            )
        self.low, self.high, self.horizon = low, high, horizon

    @property
    def size(self) -> int:
        """Numbers of a flat chunk, C = H * A."""
        return self.horizon * len(self.low)

    def chunk(self, flat: Tensor) -> Tensor:
        """Return chunks ``[*B, H, A]`` in the environment's units of flat ones ``[*B, C]``."""
        unit = flat.unflatten(-1, (self.horizon, len(self.low)))
        return self.low + (unit + 1.0) / 2.0 * (self.high - self.low)

    def flat(self, chunk: Tensor) -> Tensor:
        """Return flat chunks in [-1, 1], ``[*B, C]``, of chunks ``[*B, H, A]``."""
        unit = 2.0 * (chunk - self.low) / (self.high - self.low) - 1.0
        return unit.clamp(-1.0, 1.0).flatten(-2)


class ModeActor(nn.Module):
    """A generative policy that reads a mode embedding last, and the average of its weights.

    What acts and is saved is the average; what is trained is ``policy``.

    Args:
        policy: its last observation is the embedding, ``[*B, D]``; it has a ``cloning_loss``.
        box: of its chunks.
        ema: decay of the average.
        dropout: how often an embedding is replaced by zeros, which leave the mode open.

    Raises:
        ConfigurationError: if the policy's last observation is another, or an option is out of
            range.
    """

    def __init__(
        self, policy: GenerativePolicy, box: ActionBox, *, ema: float = 0.99, dropout: float = 0.3
    ) -> None:
        super().__init__()
        if policy.observation_keys[-1] != keys.MODE_EMBEDDING:
            raise ConfigurationError(
                f"expected a policy that reads {keys.MODE_EMBEDDING!r} last, got one that reads "
                f"{policy.observation_keys}"
            )
        if not (0.0 <= ema < 1.0 and 0.0 <= dropout < 1.0):
            raise ConfigurationError(
                f"expected ema and dropout in [0, 1), got {ema} and {dropout}; where "
                "embeddings are always dropped, nothing commands"
            )
        self.policy, self.box, self.dropout = policy, box, dropout
        self.averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(ema))

    @property
    def observation_keys(self) -> list[NestedKey]:
        """What it reads of the environment."""
        return list(self.policy.observation_keys[:-1])

    @property
    def acting(self) -> GenerativePolicy:
        """The averaged policy."""
        return cast(GenerativePolicy, self.averaged.module)

    @torch.no_grad()
    def act(self, observations: TensorDictBase, embeddings: Tensor) -> Tensor:
        """Draw flat chunks in [-1, 1], ``[*B, C]``, with fresh noise.

        Args:
            observations: what the policy reads of the environment, ``[*B]``.
            embeddings: ``[*B, D]``.
        """
        values = [observations.get(key) for key in self.observation_keys]
        noise = torch.randn(
            *embeddings.shape[:-1], *self.policy.noise_shape, device=embeddings.device
        )
        return self.box.flat(self.acting.decode(noise, *values, embeddings))

    def loss(
        self, targets: Tensor, observations: TensorDictBase, embeddings: Tensor, free: Tensor
    ) -> Tensor:
        """Return the cloning loss of target actions; no gradient goes through the chain.

        Args:
            targets: flat chunks in [-1, 1], ``[n, C]``.
            observations: ``[n]``.
            embeddings: ``[n, D]``.
            free: rows ``[n]`` whose embedding may be dropped.
        """
        if targets.shape[-1] != self.box.size:
            raise ShapeError(f"expected targets [n, {self.box.size}], got {tuple(targets.shape)}")
        dropped = free & (torch.rand(len(targets), device=targets.device) < self.dropout)
        told = embeddings.masked_fill(dropped.unsqueeze(-1), 0.0)
        values = [observations.get(key) for key in self.observation_keys]
        policy: Any = self.policy
        return policy.cloning_loss(self.box.chunk(targets), *values, told)

    def average(self) -> None:
        """Take up the newest weights into the average."""
        self.averaged.update_parameters(self.policy)


@dataclass(frozen=True)
class Change:
    """Another command on the way.

    Attributes:
        embeddings: of each row, ``[B, D]``.
        when: decision from which they are read, ``[B]`` int64.
    """

    embeddings: Tensor
    when: Tensor


class Commanded:
    """Plays each row of an environment by an embedding of its own, from one reset of all on.

    Args:
        actor: what plays.
        embeddings: of each row, ``[B, D]``.
        noise: standard deviation, of each row ``[B]``, of what is added to all actions of the
            episode, which leads elsewhere, in half to those of a chunk, and in a quarter to each,
            in units of [-1, 1]; None adds nothing.
        change: another command on the way, or None.
    """

    def __init__(
        self,
        actor: ModeActor,
        embeddings: Tensor,
        noise: Tensor | None = None,
        change: Change | None = None,
    ) -> None:
        self.actor, self.embeddings, self.noise, self.change = actor, embeddings, noise, change
        self.decision, self._drift = 0, torch.zeros(())

    def command(self, tensordict: TensorDictBase) -> Tensor:
        """Return what is commanded at this decision, ``[B, D]``."""
        told, change = self.embeddings, self.change
        if change is None:
            return told
        return torch.where((change.when <= self.decision)[:, None], change.embeddings, told)

    @torch.no_grad()
    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the action, a chunk ``[B, H, A]``."""
        box = self.actor.box
        flat = self.actor.act(tensordict, self.command(tensordict))
        if self.noise is not None:
            drift, turn = torch.randn(2, len(flat), len(box.low)).repeat(1, 1, box.horizon)
            self._drift = self._drift if self.decision else drift
            shaken = self._drift + 0.5 * turn + 0.25 * torch.randn_like(flat)
            flat = flat + self.noise.unsqueeze(-1) * shaken
        self.decision += 1
        return tensordict.set(keys.ACTION, box.chunk(flat.clamp(-1.0, 1.0)))
