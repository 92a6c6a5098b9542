from __future__ import annotations

import torch

from modereg_integrations.maniskill.rows import choose, draw_seeds, join, read


def test_what_the_observation_lacks_is_looked_up_in_the_info() -> None:
    obs = {"agent": {"qpos": torch.ones(2, 3, dtype=torch.float64)}}
    info = {"success": torch.tensor([True, False]), "mode": torch.tensor([1, -1]), "x": 0}
    dtypes = {
        ("observation", "agent", "qpos"): torch.float32,
        "success": torch.bool,
        "mode": torch.int64,
    }
    leaves = read(obs, info, dtypes, "cpu")
    assert leaves.keys() == dtypes.keys()
    assert leaves["observation", "agent", "qpos"].dtype == torch.float32
    assert leaves["success"].tolist() == [[True], [False]]
    assert leaves["mode"].tolist() == [[1], [-1]]


def test_joined_rows_are_copies() -> None:
    for parts in ([{"a": torch.zeros(1, 2)}], [{"a": torch.zeros(1, 2)}, {"a": torch.ones(2, 2)}]):
        joined = join(parts)["a"]
        assert joined.shape == (sum(len(part["a"]) for part in parts), 2)
        parts[0]["a"].fill_(5)
        assert joined[0].tolist() == [0, 0]


def test_rows_are_chosen_whatever_their_shape() -> None:
    first = {"a": torch.ones(3, 1), "b": torch.ones(3, 2, 2, dtype=torch.uint8)}
    second = {"a": torch.zeros(3, 1), "b": torch.zeros(3, 2, 2, dtype=torch.uint8), "c": None}
    chosen = choose(torch.tensor([[True], [False], [True]]), first, second)
    assert chosen["a"].view(-1).tolist() == [1, 0, 1]
    assert chosen["b"].sum((1, 2)).tolist() == [4, 0, 4]
    assert chosen["b"].dtype == torch.uint8
    assert "c" not in chosen


def test_seeds_come_from_the_generator_alone() -> None:
    drawn = []
    for _ in range(2):
        torch.rand(1)
        drawn.append(draw_seeds(torch.Generator().manual_seed(3), 4))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4
