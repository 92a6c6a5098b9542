"""The single steps that decisions were: transitions of what moves each action when it is played."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.errors import ConfigurationError
from modereg.reading import in_next, valid_rows
from modereg.steering import SteeringPolicy

__all__ = ["StepRecorder", "next_base_action"]

MASK = ("collector", "mask")


@dataclass
class _Played:
    """The steps of one decision: states ``[*B]`` and rewards ``[*B, n]``."""

    states: list[TensorDictBase] = field(default_factory=list)
    rewards: Tensor | None = None


class StepRecorder:
    """Moves the actions of a steered environment, and keeps the steps for the learner.

    ``chunk.set_mover(recorder, recorder.rewarded)`` with the environment's
    :class:`~modereg.transforms.ActionChunk`, roll out, then :meth:`write`.

    Args:
        move: given a state ``[*B]`` with the base's action, returns what is played, ``[*B, 1, A]``,
            not clipped; it may write into the state what led to it.
        read: entries of a state that are kept, where it has them, and which the next decision's
            root has too.
        written: further entries, that ``move`` writes.
        base_key: entry of the base's action, ``[*B, 1, A]``, kept too.
        played_key: entry of ``next`` for what was played, clipped, ``[*B, 1, A]``.
    """

    def __init__(
        self,
        move: Callable[[TensorDictBase], Tensor],
        read: Iterable[NestedKey],
        *,
        written: Iterable[NestedKey] = (),
        base_key: NestedKey = keys.BASE_ACTION,
        played_key: NestedKey = keys.PLAYED,
    ) -> None:
        self._move, self.base_key, self.played_key = move, base_key, played_key
        self.read = [key for key in dict.fromkeys(read) if key != base_key]
        self.written = list(written)
        self._decisions: list[_Played] = []

    @torch.no_grad()
    def __call__(self, state: TensorDictBase, action: Tensor, index: int) -> Tensor:
        """Return what is played, ``[*B, A]``; see :class:`~modereg.transforms.Mover`."""
        if index == 0:
            self._decisions.append(_Played())
        here = state.select(*self.read, strict=False).clone()  # environments reuse their buffers
        moved = self._move(here.set(self.base_key, action.unsqueeze(-2)))
        kept = here.select(*self.read, *self.written, self.base_key, strict=False)
        self._decisions[-1].states.append(kept)
        return moved.squeeze(-2).to(action)

    @property
    def decision_keys(self) -> list[NestedKey]:
        """Entries of decisions that :meth:`write` reads."""
        own = (keys.STEPS, keys.EXECUTED, "done", "terminated")
        return [in_next(key) for key in (*self.read, *own)]

    def rewarded(self, rewards: Tensor) -> None:
        """Take in the rewards of the steps of a decision, ``[*B, n]``."""
        self._decisions[-1].rewards = rewards

    def forget(self) -> None:
        """Let go of what was played since the last :meth:`write`."""
        self._decisions = []

    @torch.no_grad()
    def write(
        self, batch: TensorDictBase, base_action: Callable[[TensorDictBase], Tensor]
    ) -> TensorDict:
        """Return the steps of a batch of these decisions, ``[B, T * e]``, and forget them.

        In ``next`` stand the state that a step led to, with the base's action there, the reward of
        the step, what was played, and a discount of one step. Steps that were not played come after
        the end of an episode, have ended too, and a false ``("collector", "mask")``.

        Args:
            batch: ``[B, T]``.
            base_action: of states ``[n]`` draws what the base would play, ``[n, 1, A]``: where a
                decision that is not in the batch would begin.

        Raises:
            ConfigurationError: if it has another number of decisions.
        """
        drawn, self._decisions = self._decisions, []
        if len(drawn) != batch.shape[-1]:
            raise ConfigurationError(
                f"expected a batch of the {len(drawn)} decisions that were played since the last, "
                f"got one of {batch.shape[-1]}; write each batch, before the next is collected"
            )
        ended, played = batch.get("next"), batch.get(("next", keys.EXECUTED))
        number, length = ended.get(keys.STEPS), played.shape[-2]
        place = torch.arange(length, device=played.device)
        last, valid = place == number - 1, place < number  # [B, T, e]
        if (decided := valid_rows(batch)) is not None:
            valid = valid & decided.unsqueeze(-1)

        roots: TensorDictBase = torch.stack(
            [_padded(each.states, length) for each in drawn], 1
        )  # [B, T, e]
        ends = ended.select(*self.read, strict=False)
        ends.set(self.base_key, self._base_after(roots, ended, base_action))
        within = torch.cat([roots[:, :, 1:], roots[:, :, -1:]], 2).select(*ends.keys(True, True))
        after = ends.unsqueeze(2).expand(*last.shape).where(last, within)

        rewards = [torch.nn.functional.pad(r, (0, length - r.shape[-1])) for r in _rewards(drawn)]
        after.set(keys.REWARD, (torch.stack(rewards, 1) * valid).unsqueeze(-1))
        after.set(self.played_key, played.unsqueeze(-2))
        after.set(keys.STEPS, torch.ones_like(number).unsqueeze(2).expand(*last.shape, 1))
        for flag in ("done", "terminated"):
            over = (last & ended.get(flag)) | ~valid
            after.set(flag, over.unsqueeze(-1))
        return roots.set("next", after).set(MASK, valid).flatten(1, 2)

    def _base_after(
        self,
        roots: TensorDictBase,
        ended: TensorDictBase,
        base_action: Callable[[TensorDictBase], Tensor],
    ) -> Tensor:
        """Return what the base plays where decisions led to, ``[B, T, 1, A]``; any at an end."""
        first = roots.get(self.base_key)[:, :, 0]
        found = torch.cat([first[:, 1:], first[:, -1:]], 1)
        drawn = ended.get("done").squeeze(-1).clone()
        drawn[:, -1] = True
        drawn &= ~ended.get("terminated").squeeze(-1)
        if bool(drawn.any()):
            found[drawn] = base_action(ended[drawn]).to(found)
        return found


def next_base_action(
    decoder: ChunkDecoder, steering: SteeringPolicy
) -> Callable[[TensorDictBase], Tensor]:
    """Return what draws the base's next action at any states: the first that it would play there.

    Args:
        decoder: of the steered environment.
        steering: psi(w | s, z).
    """

    @torch.no_grad()
    def draw(state: TensorDictBase) -> Tensor:
        device: Any = next(steering.parameters()).device
        noise = steering.distribution(state.to(device)).sample()
        return decoder(state, noise.to(state.device or device))[..., :1, :]

    return draw


def _padded(states: list[TensorDictBase], length: int) -> TensorDictBase:
    """Return states as ``[B, length]``, the last one repeated."""
    return torch.stack([*states, *[states[-1]] * (length - len(states))], 1)


def _rewards(drawn: list[_Played]) -> list[Tensor]:
    found = [each.rewards for each in drawn]
    if any(each is None for each in found):
        raise ConfigurationError(
            "expected the rewards of each decision, got none; give them to "
            "set_mover(recorder, recorder.rewarded)"
        )
    return found  # type: ignore[return-value]
