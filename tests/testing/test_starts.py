"""Episodes have to start afresh; one that does not is planted in test_faults."""

from __future__ import annotations

import pytest
from tensordict import TensorDictBase
from torchrl.envs import StepCounter, Transform

from modereg.testing import CountingEnv
from modereg.testing.starts import check_starts
from modereg.transforms import ActionChunk, History, LatentConditioner


def test_drawn_codes_are_left_out_and_the_rest_starts_alike() -> None:
    check_starts(lambda: [StepCounter(), ActionChunk(2), History(length=5), LatentConditioner(4)])


class _Counter(Transform):
    """Counts on over the end of an episode."""

    total = 0.0

    def _count(self, tensordict: TensorDictBase) -> TensorDictBase:
        counted = tensordict["observation"][..., :1] * 0 + self.total
        return tensordict.set("counted", counted)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        self.total += 1.0
        return self._count(next_tensordict)

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._count(tensordict_reset)


def test_what_goes_on_counting_is_named() -> None:
    with pytest.raises(AssertionError, match="other values under 'counted' than the first"):
        check_starts(_Counter)


def test_a_rollout_without_an_end_is_refused() -> None:
    with pytest.raises(AssertionError, match="no episode starts within 2 steps"):
        check_starts(lambda: History(length=3), lambda: CountingEnv([9, 9]), steps=2)
