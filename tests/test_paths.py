from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modereg import paths as module
from modereg.errors import CheckpointError
from modereg.paths import Paths, load_paths, path_key, save_paths
from modereg.tasks.gaussian_mixture import gaussian_mixture_task

TASK = gaussian_mixture_task()
FIGURES = {"episodes": 30, "success": 0.5}


def make_paths(number: int = 6, slots: int = 5, **changes: Any) -> Paths:
    """Return episodes with labels, each of another length."""
    given: dict[str, Any] = {
        "modes": torch.arange(number) % 4,
        "success": torch.arange(number) % 2 == 0,
        **changes,
    }
    lengths = torch.arange(number) % (slots - 1) + 1
    return Paths(torch.randn(number, slots, 2), lengths, torch.arange(number) % 3, **given)


def same(one: Paths, other: Paths) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in module.TENSORS]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def key(**changes: Any) -> dict[str, Any]:
    options = {"pay_spread": 0.3}
    given = {"task": TASK, "options": options, "num_envs": 64, "base": "abc", **changes}
    return path_key(**given)


@pytest.mark.parametrize("changes", [{}, {"modes": None}, {"modes": None, "success": None}])
def test_what_is_kept_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    given = make_paths(**changes)
    path = save_paths(tmp_path / "run", key(), given, FIGURES, seed=7)
    assert path.parent == tmp_path / "run"
    kept = load_paths(tmp_path / "run", key())
    assert kept is not None
    assert same(kept.paths, given)
    assert (kept.figures, kept.seed) == (FIGURES, 7)
    assert torch.equal(kept.paths.first(2).positions, given.positions[:2])
    some = kept.paths.of_codes((0, 2))
    assert some.codes.tolist() == [0, 2, 0, 2]
    assert torch.equal(some.positions, given.positions[[0, 2, 3, 5]])
    assert (some.modes is None) == (given.modes is None)


def test_only_the_same_kind_of_episodes_is_found(tmp_path: Path) -> None:
    """Base, task, its options and features, batch, adapter, seed and number all count."""
    adapter, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_paths(tmp_path, key(steering=adapter), make_paths(), FIGURES, seed=7)
    found = load_paths(tmp_path, key(steering=adapter), seed=7, judged=30)
    assert found is not None
    for changed in (
        {"steering": None},
        {"steering": other},
        {"steering": adapter, "base": "abd"},
        {"steering": adapter, "num_envs": 32},
        {"steering": adapter, "options": {"pay_spread": 0.5}},
        {"steering": adapter, "task": TASK.with_layout(feature_dims=(0,))},
        {"steering": adapter, "task": TASK.with_layout(max_steps=TASK.layout.max_steps + 1)},
        {"steering": adapter, "task": TASK.with_layout(execute=TASK.layout.played - 1)},
        {"steering": adapter, "task": TASK.with_layout(execute=1, offset=1)},
        {"steering": adapter, "task": replace(TASK, name="another")},
    ):
        assert load_paths(tmp_path, key(**changed)) is None, changed
    assert load_paths(tmp_path, key(steering=adapter), seed=8) is None
    assert load_paths(tmp_path, key(steering=adapter), judged=31) is None


def test_a_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, slots, kept in ((450, 3, 400), (6, 5, 6)):
        save_paths(tmp_path, key(), make_paths(number, slots), FIGURES, seed=0)
        found = load_paths(tmp_path, key())
        assert found is not None
        assert len(found.paths) == kept
    monkeypatch.setattr(module, "NUMBERS", 25)  # two episodes of ten numbers
    save_paths(tmp_path, key(), make_paths(), FIGURES, seed=0)
    found = load_paths(tmp_path, key())
    assert found is not None
    assert len(found.paths) == 2


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    """Each bit counts: of the numbers, of the figures, of the header."""
    path = save_paths(tmp_path, key(), make_paths(), FIGURES, seed=0)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in (0, 4, len(whole) // 2, len(whole) - 1)]
    for place in range(0, len(whole), 7):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"paths-\w+.safetensors, got a damaged file"):
            load_paths(tmp_path, key())
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="delete it, and they are rolled out again"):
        load_paths(tmp_path, key())


def test_a_lost_or_circular_file_is_none(tmp_path: Path) -> None:
    path = save_paths(tmp_path, key(), make_paths(), FIGURES, seed=0)
    path.unlink()
    os.symlink(path, path)
    assert load_paths(tmp_path, key()) is None
    save_paths(tmp_path, key(), make_paths(), FIGURES, seed=0)
    assert load_paths(tmp_path, key()) is not None
