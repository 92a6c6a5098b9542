"""What a decision has to return; wrong ones are planted in test_faults."""

from __future__ import annotations

import pytest

from modereg.transforms import ActionChunk
from tests.testing.chunks import check_chunk


def test_ours_plays_what_single_steps_play() -> None:
    check_chunk(ActionChunk)


def test_another_discount_is_another_sum() -> None:
    def make(execute: int, offset: int, gamma: float) -> ActionChunk:
        return ActionChunk(execute, offset, gamma**2)

    with pytest.raises(AssertionError, match="gamma=0.5, a decision of 3 steps is rewarded"):
        check_chunk(make)
