"""Learners that draw a share of each minibatch from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.decoding import find_transform
from modereg.learners.base import Problem
from modereg.learners.config import DemonstratedConfig
from modereg.learners.nstep import windows_within
from modereg.learners.replay import ReplayLearner
from modereg.objectives import ChunkReplayLoss
from modereg.playback import play_back
from modereg.priors import CategoricalPrior
from modereg.recordings import Recording, load_recording
from modereg.seeding import derived_seed, isolated_generators
from modereg.transforms import LatentConditioner

__all__ = ["DemonstratedLearner"]

SHOWN = 7
"""Sets the seed of what is drawn for demonstrations apart from those of other parts of a run."""


class DemonstratedLearner(ReplayLearner):
    """Learns from demonstrations beside what it collects, a fixed share of each minibatch.

    Symmetric sampling, as RLPD has it (arXiv 2302.02948): half of a minibatch by default, whether
    critic or policy learns from it. Demonstrations are played back through the environment's own
    transforms. The code of an episode is the one that q gives its whole history, told before the
    first gradient step, drawn from the prior where nothing tells it; any would do, since what an
    episode pays under a code is paid anew as for every other row.

    Args:
        problem: what is improved.
        config: options.
        loss: as :class:`~modereg.learners.replay.ReplayLearner` has it, of what was executed.
        optimizers: likewise.

    Raises:
        CheckpointError: if there is no recording in the file.
        ModeregError: what :func:`~modereg.playback.play_back` raises.
    """

    config: DemonstratedConfig

    def __init__(
        self,
        problem: Problem,
        config: DemonstratedConfig,
        loss: ChunkReplayLoss,
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        super().__init__(problem, config, loss, optimizers)
        self.conditioner = find_transform(problem.env, LatentConditioner)
        self.shown: TensorDictBase | None = None  # as the buffer keeps its own
        if config.demonstrations is not None:
            recording = load_recording(config.demonstrations)
            self._played = self.played_back(recording)

    def played_back(self, recording: Recording) -> tuple[TensorDictBase, Tensor]:
        """Return what is read of recorded episodes, ``[n]``, and how many rows each is, ``[N]``."""
        return play_back(recording, self.problem.env, self.problem.base, self.read)

    def sample(self) -> TensorDictBase:
        """Return what a gradient step learns from, its own decisions first."""
        if self.config.demonstrations is None:
            return super().sample()
        if self.shown is None:
            self.shown = self._told(*self._played)
        number = self.config.shown
        own = self.buffer.sample(self.config.minibatch - number).select(*self.stored)
        drawn = torch.randint(len(self.shown), (number,), device=self.device)
        return torch.cat([own, self.shown[drawn]])

    def _told(self, data: TensorDictBase, decisions: Tensor) -> TensorDictBase:
        """Return demonstrations as the buffer keeps decisions: with codes, prepared, in windows.

        Args:
            data: decisions ``[n]``, one episode after the other.
            decisions: of each episode, ``[N]``.
        """
        data, decisions = data.to(self.device), decisions.to(self.device)
        last = decisions.cumsum(0) - 1
        with isolated_generators(derived_seed(self.problem.seed, SHOWN)), torch.no_grad():
            self._set_codes(data, self._codes(data[last]).repeat_interleave(decisions))
            if self.problem.mi_reward is not None:
                data = self.problem.mi_reward(data)
            parts = [self.prepared_shown(part) for part in data.split(self.config.minibatch)]
        data = torch.cat(parts).select(*self.stored)
        if self.windows is None:
            return data
        return data[windows_within(decisions, self.windows.length)]

    def prepared_shown(self, data: TensorDictBase) -> TensorDictBase:
        """Return demonstrations ``[n]`` with codes, as ``prepared`` returns what is played."""
        return self.prepared(data)

    def _codes(self, last: TensorDictBase) -> Tensor:
        """Return the codes ``[N]`` of episodes that ended with these decisions."""
        pays = self.problem.mi_reward
        if pays is None:
            return self.conditioner.prior.sample(last.batch_size, self.device)
        source = last if pays.estimator.source == "root" else last.get("next")
        log_prob = pays.estimator.log_prob(source)  # of discrete codes alone
        drawn = cast(CategoricalPrior, self.conditioner.prior).probs.to(self.device) > 0
        return log_prob.masked_fill(~drawn, -torch.inf).argmax(-1)

    def _set_codes(self, data: TensorDictBase, codes: Tensor) -> None:
        features = self.conditioner.prior.features(codes)
        for state in (data, data.get("next")):
            state.set(self.conditioner.latent_key, codes)
            state.set(self.conditioner.features_key, features)

    def state_dict(self) -> dict[str, Any]:
        """Return what :class:`~modereg.learners.replay.ReplayLearner` does, and the demonstrations.

        They are kept as they were told, so that a run that goes on does not tell them anew.
        """
        shown = {} if self.shown is None else {"shown": self.shown.to_dict()}
        return super().state_dict() | shown

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.shown = self.restored(state["shown"]) if "shown" in state else None
