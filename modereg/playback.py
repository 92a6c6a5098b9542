"""Recorded episodes, played back: they become decisions as a live environment's steps do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg import keys
from modereg.decoding import find_transform
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.policies import GenerativePolicy
from modereg.recordings import Recording
from modereg.single_steps import StepRecorder
from modereg.transforms import ActionChunk
from modereg.wrapping import SteeredEnv, chunk_env

__all__ = ["Playback", "play_back"]


class Playback(EnvBase):
    """An environment ``[N]`` that shows recorded episodes, one a row, whatever it is told.

    Rows that have ended stay as they are. It runs on the CPU.

    Args:
        recording: the episodes.
        env: the environment that they are of, which says what actions and rewards are.
    """

    finished_rows_stay = True

    def __init__(self, recording: Recording, env: EnvBase) -> None:
        number = len(recording)
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([number]))
        self.recording = recording
        self._dtype = env.full_reward_spec[keys.REWARD].dtype
        ends = recording.lengths.cumsum(0)
        self._first = ends - recording.lengths  # action of each episode
        self._at = torch.zeros_like(ends)
        shown = {
            key: Unbounded((number, *value.shape[1:]), dtype=value.dtype)
            for key, value in recording.observations.items()
        }
        self.observation_spec = Composite(shown, shape=self.batch_size)
        action = env.full_action_spec_unbatched[keys.ACTION].to("cpu")
        self.action_spec = action.expand(number, *action.shape)
        self.reward_spec = Unbounded((number, 1), dtype=self._dtype)
        flags = {
            name: Binary(1, (number, 1), dtype=torch.bool)
            for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(flags, shape=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        """Do nothing: nothing is random."""

    def chunk(self, layout: Layout) -> Tensor:
        """Return what is recorded around now in each row as a chunk, ``[N, H, A]``.

        Before the first action and after the last one, that is repeated.
        """
        ahead = torch.arange(layout.chunk_length, device=self.device) - layout.offset
        place = (self._at[:, None] + ahead).clamp_min(0)
        place = place.minimum(self.recording.lengths[:, None] - 1)
        return self.recording.actions[self._first[:, None] + place]

    def _shown(self) -> TensorDict:
        place = self._first + torch.arange(len(self._at), device=self.device) + self._at
        ended = (self._at == self.recording.lengths)[:, None]
        terminated = ended & self.recording.terminated[:, None]
        flags = {"done": ended, "terminated": terminated, "truncated": ended & ~terminated}
        shown = {key: value[place] for key, value in self.recording.observations.items()}
        return TensorDict(shown | flags, self.batch_size)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        rows = None if tensordict is None else tensordict.get("_reset", None)
        rows = torch.ones_like(self._at) if rows is None else rows.flatten().long()
        self._at = self._at * (1 - rows)
        return self._shown()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        alive = self._at < self.recording.lengths
        reward = self.recording.rewards[self._first + self._at.minimum(self.recording.lengths - 1)]
        self._at = self._at + alive
        return self._shown().set(keys.REWARD, (reward * alive).to(self._dtype)[:, None])


@torch.no_grad()
def play_back(
    recording: Recording,
    env: SteeredEnv,
    policy: GenerativePolicy,
    read: Sequence[NestedKey],
    recorder: StepRecorder | None = None,
) -> tuple[TensorDict, Tensor]:
    """Return the decisions that recorded episodes would have been in a steered environment.

    The chunk of each is what was recorded around it; where an episode ends inside of it, its last
    action is repeated. There are no noises and no codes.

    Args:
        recording: the episodes.
        env: the environment that they are of, steered.
        policy: its base policy.
        read: entries of a decision to return, if it has them; others are not kept.
        recorder: returns single steps in the place of decisions, whose base's action is what was
            recorded; None returns decisions.

    Returns:
        Decisions, or steps, ``[n]``, one episode after the other, and those of each, ``[N]`` int64.

    Raises:
        KeyMismatchError: if an observation that is read was not recorded.
        ShapeError: if actions or observations are of another shape than the environment's.
        ConfigurationError: if they are of another type, an episode is too long, or one was cut
            where running out of time ends it for good.
    """
    layout, plain = env.layout, find_transform(env, ActionChunk).parent
    recording.check(plain, _needed(env, policy, read))
    played = Playback(_ended(recording, env), plain)
    decisions = chunk_env(played, policy, layout)
    if recorder is not None:
        find_transform(decisions, ActionChunk).set_mover(recorder, recorder.rewarded)
    longest, rows, going = int(recording.lengths.max()), [], []
    needed = read if recorder is None else recorder.decision_keys
    root = decisions.reset()
    for _ in range(-(-longest // layout.played)):
        chunk = played.chunk(layout)
        step = decisions.step(root.set(keys.ACTION, chunk))
        step.get("next").set(keys.CHUNK, chunk)
        rows.append(step.select(*needed, strict=False))
        going.append(~root.get("done").squeeze(-1))
        root = decisions.step_mdp(step)
    batch: TensorDict = torch.stack(rows, 1)
    valid = torch.stack(going, 1)
    if recorder is not None:
        batch.set(("collector", "mask"), valid)
        batch = recorder.write(batch, lambda states: states.get(keys.EXECUTED)[:, :1])
        valid = batch.pop(("collector", "mask"))
    return batch[valid], valid.sum(1)


def _needed(
    env: SteeredEnv, policy: GenerativePolicy, read: Sequence[NestedKey]
) -> list[NestedKey]:
    """Return the observations of the environment itself that are read at some place."""
    layout, plain = env.layout, find_transform(env, ActionChunk).parent
    own = {key for key in plain.full_observation_spec.keys(True, True) if key[0] != keys.STACKED}
    if layout.time_limit == "terminates":
        own.discard(keys.ELAPSED)  # told by the steps
    asked = [*policy.observation_keys, *layout.features, *layout.steered_by, *read]
    return [key for key in asked if key in own]


def _ended(recording: Recording, env: SteeredEnv) -> Recording:
    """Return episodes of which those that ran out of time ended as they do in an environment.

    Raises:
        ConfigurationError: if one is longer, or was cut before where there is no value of its end.
    """
    layout = env.layout
    if (longest := int(recording.lengths.max())) > layout.max_steps:
        raise ConfigurationError(
            f"expected recorded episodes of at most {layout.max_steps} actions, as the layout "
            f"says, got one of {longest}"
        )
    if layout.time_limit == "truncates":
        return recording
    terminated = recording.terminated | (recording.lengths == layout.max_steps)
    if not bool(terminated.all()):
        raise ConfigurationError(
            f"expected recorded episodes that end for good or after {layout.max_steps} actions, "
            "where the time limit terminates, got "
            f"{int((~terminated).sum())} of {len(recording)} that were cut before; leave them out, "
            "or say that they terminated"
        )
    return replace(recording, terminated=terminated)
