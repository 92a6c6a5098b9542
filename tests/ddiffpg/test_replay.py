from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg.ddiffpg.replay import EXPLORE, OWN, TrajectoryReplay, own_place
from modereg.errors import ConfigurationError


def _episodes(number: int, start: int = 0, *, success: bool = True) -> TensorDict:
    """Episodes of 1 to 3 of 3 decisions, whose actions say which they are."""
    names = torch.arange(start, start + number)
    return TensorDict(
        {
            "actions": names[:, None, None].float().expand(-1, 3, 2).clone(),
            "length": 1 + names % 3,
            "success": torch.full((number,), success),
            "pure": torch.ones(number, dtype=torch.bool),
        },
        [number],
    )


def test_a_crowd_does_not_drive_out_the_rare() -> None:
    replay = TrajectoryReplay(8)
    replay.extend(_episodes(2), torch.full((2,), 2))
    for start in range(2, 40):
        replay.extend(_episodes(1, start), torch.tensor([1]))
    assert len(replay) == 8
    assert sorted(replay.numbers.tolist()) == [0, 1, 34, 35, 36, 37, 38, 39]
    assert torch.bincount(replay.groups).tolist() == [0, 6, 2]


def test_failures_of_a_command_do_not_drive_out_its_successes() -> None:
    replay = TrajectoryReplay(8)
    replay.extend(_episodes(3), torch.ones(3, dtype=torch.int64))
    for start in range(3, 20):
        replay.extend(_episodes(1, start, success=False), torch.tensor([1]))
    assert sorted(replay.numbers.tolist()) == [0, 1, 2, 15, 16, 17, 18, 19]


def test_each_group_is_drawn_alike_and_no_padding() -> None:
    replay = TrajectoryReplay(20)
    replay.extend(_episodes(12), torch.zeros(12, dtype=torch.int64))
    replay.extend(_episodes(3, 12), torch.ones(3, dtype=torch.int64))
    places, steps = replay.sample([0, 1], 400)
    assert places.shape == steps.shape == (2, 400)
    assert set(places[0].tolist()) == set(range(15)), "exploration learns from all"
    assert set(places[1].tolist()) == {12, 13, 14}
    lengths = replay.episodes["length"][places]
    assert bool((steps < lengths).all())
    drawn = torch.bincount(places[1] - 12) / 400
    wanted = replay.episodes["length"][12:15] / replay.episodes["length"][12:15].sum()
    torch.testing.assert_close(drawn, wanted, atol=0.1, rtol=0)


def test_targets_begin_as_what_was_played_and_again_where_the_mode_changes() -> None:
    replay = TrajectoryReplay(4)
    replay.extend(_episodes(3), torch.tensor([1, 1, 2]))
    targets = replay.episodes["targets"]
    torch.testing.assert_close(targets[:3, :, OWN], replay.episodes["actions"][:3])
    targets[:3] = 9.0
    replay.regroup(torch.tensor([0, 2]), torch.tensor([1, 1]))
    assert targets[0, 0, OWN].tolist() == [9.0, 9.0]
    assert targets[2, 0, OWN].tolist() == [2.0, 2.0]
    assert targets[2, 0, EXPLORE].tolist() == [9.0, 9.0]
    assert replay.groups[:3].tolist() == [1, 1, 1]


def test_own_targets_are_those_of_modes() -> None:
    found = own_place(torch.tensor([0, 1, 2]), torch.zeros(3, 2))
    assert found.tolist() == [[EXPLORE] * 2, [OWN] * 2, [OWN] * 2]


def test_successes_are_the_latest_of_each_group_and_pure() -> None:
    replay = TrajectoryReplay(30)
    replay.extend(_episodes(10), torch.ones(10, dtype=torch.int64))
    replay.extend(_episodes(3, 10), torch.full((3,), 2))
    replay.extend(_episodes(4, 13, success=False), torch.ones(4, dtype=torch.int64))
    mixed = _episodes(2, 17).set("pure", torch.zeros(2, dtype=torch.bool))
    replay.extend(mixed, torch.ones(2, dtype=torch.int64))
    assert replay.successes(100).tolist() == list(range(13))
    assert replay.successes(6).tolist() == [7, 8, 9, 10, 11, 12]


def test_a_state_comes_back() -> None:
    replay, again = TrajectoryReplay(5), TrajectoryReplay(5)
    replay.extend(_episodes(7), torch.tensor([0, 1, 0, 1, 0, 2, 1]))
    again.load_state_dict(replay.state_dict())
    for each in (replay, again):
        torch.manual_seed(3)
        each.extend(_episodes(1, 7), torch.tensor([1]))
    assert bool((replay.episodes == again.episodes).all())
    assert torch.equal(replay.groups, again.groups)
    draws = []
    for each in (replay, again):
        torch.manual_seed(3)
        draws.append(torch.stack(each.sample([0, 1], 9)))
    assert torch.equal(*draws)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="room for at least 1"):
        TrajectoryReplay(0)
    replay = TrajectoryReplay(3)
    replay.extend(_episodes(1), torch.tensor([1]))
    with pytest.raises(ConfigurationError, match="episode of group 2"):
        replay.sample([2], 4)
