from __future__ import annotations

from functools import partial

import pytest
import torch

from modereg.errors import ShapeError
from modereg.tasks import experts
from modereg_integrations.mujoco import PointMaze
from modereg_integrations.mujoco.expert import lead_through
from modereg_integrations.mujoco.maze_geometry import NUM_MODES

demonstrate = partial(experts.demonstrate, PointMaze, lead_through, NUM_MODES)


def test_first_attempts_succeed_in_the_mode_that_was_asked_for() -> None:
    for mode in range(NUM_MODES):
        shares = torch.eye(NUM_MODES)[mode]
        shown = demonstrate(50, 0, shares, keep_failures=True)
        reached = shown.success & (shown.modes == mode)
        assert reached.float().mean() >= 0.95


def test_counts_follow_the_shares_and_repeats_replace_failures() -> None:
    shares = [3, 1, 1, 1, 1, 1]
    shown = demonstrate(16, 1, shares, action_noise=0.8)
    assert shown.success.all()
    assert shown.mode_counts(NUM_MODES).tolist() == [6, 2, 2, 2, 2, 2]
    assert shown.actions.abs().max() <= 1


def test_a_seed_repeats() -> None:
    first, again, other = demonstrate(12, 3), demonstrate(12, 3), demonstrate(12, 4)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


def test_six_shares() -> None:
    with pytest.raises(ShapeError, match="the 6 modes"):
        demonstrate(4, 0, [1, 1])
