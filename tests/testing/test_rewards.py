"""What a reward has to pay; wrong ones are planted in test_faults."""

from __future__ import annotations

import pytest

from modereg.transforms import MIReward
from tests.testing.rewards import check_reward


def test_ours_pays_as_defined() -> None:
    check_reward(MIReward)


@pytest.mark.parametrize("clamp", [None, (-0.1, 0.1)])
def test_another_clamp_is_another_reward(clamp: tuple[float, float] | None) -> None:
    def make(*args: object, **options: object) -> MIReward:
        return MIReward(*args, clamp=clamp, **options)

    with pytest.raises(AssertionError, match="off by up to"):
        check_reward(make)
