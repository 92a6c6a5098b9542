"""TD3 on a residual that moves each action when it is played; the steering policy stays."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.decoding import ChunkDecoder
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.demonstrated import DemonstratedLearner
from modereg.learners.replay import loss_options, standardise_chunks
from modereg.learners.replay_config import ResFiTConfig
from modereg.learners.single_steps import SingleSteps
from modereg.objectives import StepResidualLoss
from modereg.playback import play_back
from modereg.recordings import Recording
from modereg.single_steps import StepRecorder

__all__ = ["ResFiT"]


class ResFiT(DemonstratedLearner):
    """Learns a critic of single steps, and a residual from it that moves each action.

    As in ResFiT (arXiv 2509.19301): TD3 with returns of several steps, an ensemble of normalised
    critics, and demonstrations in half of each minibatch; here the residual is bounded, and stands
    behind the codes of a steering policy that stays as it is. While it collects, a growing share of
    the steps is moved by a draw of it; between batches the environment plays its mean. What the
    base would do at a demonstrated state is drawn there, once.

    Args:
        problem: what is improved.
        config: options.

    Raises:
        ConfigurationError: if the start's residual has another bound, or for an intrinsic reward
            that is paid for each decision.
    """

    loss: StepResidualLoss
    config: ResFiTConfig

    def __init__(self, problem: Problem, config: ResFiTConfig) -> None:
        self.is_new = problem.env.step_residual is None
        self.residual = problem.make_step_residual(config.bound)
        loss = StepResidualLoss(
            self.residual,
            problem.make_step_qvalue(config.critics),
            ChunkDecoder(problem.env).action,
            spread=config.spread,
            smoothing=config.smoothing,
            subset=config.subset,
            **loss_options(problem, config),
        )
        self.decoder = ChunkDecoder(problem.env)
        self.single = SingleSteps(problem, self.residual, self._drawn, loss.state_keys)
        actor = self.residual.network.head.network.parameters()
        critic = loss.qvalue_network.parameters()
        optimizers = {
            "actor": torch.optim.Adam(actor, config.learning_rate, fused=True),
            "critic": torch.optim.Adam(critic, config.critic_learning_rate, fused=True),
        }
        super().__init__(problem, config, loss, optimizers)

    @staticmethod
    def longest(layout: Layout) -> int:
        """Return how many transitions an episode has at most: its single steps."""
        return layout.max_steps

    def _drawn(self, state: TensorDictBase) -> Tensor:
        return self.loss.explore(state, state.get(self.residual.base_key))

    def collect(self) -> TensorDictBase:
        """Return a batch ``[B, T]``, in which the residual is explored."""
        since = max(self.kept - self.config.prefill, 0)
        self.loss.share = min(since / self.config.explore, 1.0)
        with self.single.recorded():
            return super().collect()

    def update(self, batch: TensorDictBase) -> dict[str, float]:
        """Keep the steps of a batch, and learn from what was kept; return means of the figures."""
        return super().update(self.single.write(batch))

    def begin(self) -> None:
        """Standardise what the critic reads, and let a new residual move as the base varies."""
        data = self.kept_rows()
        standardise_chunks(self.loss, data)
        if self.is_new:
            self.single.fit(data)
            for network in (self.loss.start_network, self.loss.target_actor_network):
                network.load_state_dict(self.residual.network.state_dict())

    def played_back(self, recording: Recording) -> tuple[TensorDictBase, Tensor]:
        """Return the steps of recorded episodes, ``[n]``, and how many each has, ``[N]``."""
        problem, own = self.problem, self.single.recorder.read
        drawn_by = [*self.decoder.in_keys, *problem.steering.in_keys]
        recorder = StepRecorder(lambda state: state.get(self.residual.base_key), [*own, *drawn_by])
        return play_back(recording, problem.env, problem.base, self.read, recorder)

    def prepared_shown(self, data: TensorDictBase) -> TensorDictBase:
        """Return demonstrated steps ``[n]``, with what the base would do at both states."""
        for state in (data, data.get("next")):
            state.set(self.residual.base_key, self.single.base_action(state))
        return self.prepared(data)
