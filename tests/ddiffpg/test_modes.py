from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg.ddiffpg.clustering import WarpedClusters
from modereg.ddiffpg.modes import ModeTable, paths_of
from modereg.ddiffpg.replay import TrajectoryReplay
from modereg.errors import ConfigurationError
from tests.ddiffpg.bundles import fan


def _extend(replay: TrajectoryReplay, angles: Tensor, groups: Tensor, success: bool = True) -> None:
    paths = fan(angles, int(replay.came))
    padded = [torch.cat([path, path[-1:].expand(9 - len(path), -1)]) for path in paths]
    number = len(paths)
    episodes = TensorDict(
        {
            "path": torch.stack(padded),
            "actions": torch.zeros(number, 8, 2),
            "length": torch.tensor([len(path) - 1 for path in paths]),
            "success": torch.full((number,), success),
            "pure": torch.ones(number, dtype=torch.bool),
        },
        [number],
    )
    replay.extend(episodes, groups)


def _none(number: int) -> Tensor:
    return torch.zeros(number, dtype=torch.int64)


def _table(**options: int) -> tuple[ModeTable, TrajectoryReplay]:
    torch.manual_seed(0)
    return ModeTable(WarpedClusters(), embedding_dim=4, **options), TrajectoryReplay(200)


def test_modes_are_found_and_keep_their_embedding_when_others_come() -> None:
    table, replay = _table()
    assert table.update(replay_with(replay, [])) is None
    _extend(replay, torch.tensor([0.0, 1.6] * 10), _none(20))
    assert table.update(replay) == [0, 0, 0], "both begin as exploration"
    assert table.number == 2
    before, groups = table.embeddings.clone(), replay.groups[:20].clone()
    _extend(replay, torch.tensor([3.1] * 10), _none(10))
    sources = table.update(replay)
    assert sources is not None
    assert sorted(sources) == [0, 0, 1, 2]
    for old in (1, 2):
        now = sources.index(old)
        assert torch.equal(table.embeddings[now], before[old])
        assert torch.equal(replay.groups[:20] == now, groups == old)
    assert torch.equal(table.embeddings[0], before[0])
    assert table.update(replay) is None, "nothing changed"


def replay_with(replay: TrajectoryReplay, angles: list[float]) -> TrajectoryReplay:
    """Return a replay of failures alone, if of anything."""
    _extend(replay, torch.tensor([0.3, 0.4, *angles]), _none(2 + len(angles)), success=False)
    return replay


def test_failures_stay_with_the_mode_that_was_commanded() -> None:
    table, replay = _table()
    _extend(replay, torch.tensor([0.0, 1.6] * 10), _none(20))
    table.update(replay)
    groups = torch.tensor([1, 2, 0])
    _extend(replay, torch.tensor([3.0, 3.0, 3.0]), groups, success=False)
    _extend(replay, torch.tensor([4.7] * 12), _none(12))
    sources = table.update(replay)
    assert sources is not None
    assert [sources[int(group)] for group in replay.groups[20:23]] == groups.tolist()


def test_a_success_belongs_where_it_went() -> None:
    table, replay = _table()
    _extend(replay, torch.tensor([0.0, 1.6] * 10), _none(20))
    table.update(replay)
    modes = table.modes_of(fan(torch.tensor([0.0, 1.6, 0.0]), 77))
    assert modes.tolist() == replay.groups[[0, 1, 0]].tolist()


def test_of_too_many_the_largest_are_modes() -> None:
    table, replay = _table(most=2)
    _extend(replay, torch.tensor([0.0] * 12 + [1.6] * 4 + [3.1] * 12), _none(28))
    table.update(replay)
    assert table.number == 2
    assert replay.groups[12:16].tolist() == [0] * 4
    assert bool((replay.groups[:12] > 0).all())


def test_embeddings_are_far_from_no_command() -> None:
    table, _ = _table()
    torch.testing.assert_close(table.embeddings.norm(dim=-1), torch.tensor([2.0]))


def test_paths_have_as_many_points_as_their_episodes() -> None:
    _, replay = _table()
    _extend(replay, torch.zeros(5), _none(5))
    lengths = replay.episodes["length"][:5]
    assert [len(path) for path in paths_of(replay.episodes, torch.arange(5))] == (
        lengths + 1
    ).tolist()


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="of at least 1, got 0"):
        ModeTable(WarpedClusters(), embedding_dim=0)
