"""What learners share that move each action when it is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.decoding import ChunkDecoder, find_transform
from modereg.errors import ConfigurationError
from modereg.learners.base import Problem
from modereg.residual import StepResidual
from modereg.single_steps import StepRecorder, next_base_action
from modereg.transforms import ActionChunk

__all__ = ["SingleSteps"]


class SingleSteps:
    """Lets an environment play what a residual of single steps draws, and keeps the steps.

    Args:
        problem: whose environment plays the residual from now on.
        residual: as it is played between batches.
        move: draws what is played of a state with the base's action (:class:`StepRecorder`).
        read: entries of states that the learner reads.
        written: entries that ``move`` writes.

    Raises:
        ConfigurationError: if the intrinsic reward is paid for each decision, whatever it led to,
            which single steps would be paid as often as there are.
    """

    def __init__(
        self,
        problem: Problem,
        residual: StepResidual,
        move: Callable[[TensorDictBase], Tensor],
        read: Sequence[NestedKey],
        written: Sequence[NestedKey] = (),
    ) -> None:
        pays = problem.mi_reward
        if pays is not None and pays.timing == "dense":
            raise ConfigurationError(
                "expected an intrinsic reward that is paid at the end or by differences, for "
                "learners of single steps, got timing='dense'; choose 'final' or 'difference'"
            )
        self.env, self.residual, self.pays = problem.env, residual, pays
        self.base_action = next_base_action(ChunkDecoder(problem.env), problem.steering)
        paid_by = [] if pays is None else [pays.latent_key, *pays.estimator.in_keys]
        self.recorder = StepRecorder(move, [*read, *paid_by], written=written)
        problem.env.set_step_residual(residual)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Let what the recorder draws be played within, and the residual afterwards."""
        chunk = find_transform(self.env, ActionChunk)
        self.recorder.forget()
        chunk.set_mover(self.recorder, self.recorder.rewarded)
        try:
            yield
        finally:
            self.env.set_step_residual(self.residual)

    def write(self, batch: TensorDictBase) -> TensorDictBase:
        """Return the steps of the batch ``[B, T]`` that was recorded, ``[B, T * e]``, paid."""
        steps = self.recorder.write(batch, self.base_action)
        return steps if self.pays is None else self.pays(steps)

    @torch.no_grad()
    def fit(self, steps: TensorDictBase) -> None:
        """Let a new residual move along the numbers of an action, as the base's own vary.

        Args:
            steps: ``[n]``, of the base.
        """
        self.residual.network.fit_inputs(steps)
        actions = steps.get(keys.BASE_ACTION).flatten(1)
        spread = actions.std(0, correction=int(len(actions) > 1))
        self.residual.directions.copy_(torch.diag(spread))
