from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modereg import keys
from modereg.errors import (
    CheckpointError,
    ConfigurationError,
    KeyMismatchError,
    ModeregError,
    NonFiniteError,
    ShapeError,
)
from modereg.recordings import Recording, load_recording, make_recording, save_recording
from modereg.testing import CountingEnv

ENV = CountingEnv([5, 5], observation_key=("agent", "place"))


def _trajectory(steps: int, **changes: Any) -> dict[str, Any]:
    """Return one of a dataset of arrays; None leaves an entry out."""
    entries = {
        "agent": {"place": np.full((steps + 1, 3), steps, np.float32)},
        "action": np.full((steps, 2), 0.1 * steps, np.float32),
        "reward": np.arange(steps),
        "success": steps > 2,
    } | changes
    return {name: value for name, value in entries.items() if value is not None}


def test_trajectories_are_laid_one_after_the_other() -> None:
    made = make_recording([_trajectory(2), _trajectory(3)], ENV)
    assert len(made) == 2
    assert made.lengths.tolist() == [2, 3]
    assert made.rewards.tolist() == [0, 1, 0, 1, 2]
    assert made.terminated.tolist() == [False, True]
    assert made.observations["agent", "place"][:, 0].tolist() == [2] * 3 + [3] * 4
    assert made.actions[:, 0].tolist() == pytest.approx([0.2] * 2 + [0.3] * 3)


def test_success_pays_one_in_the_last_step_where_there_is_no_reward() -> None:
    each_step = np.array([[False], [False], [True]])
    given = [{"success": each_step}, {"success": False}, {"terminated": True}]
    made = make_recording([_trajectory(3, **({"reward": None} | more)) for more in given], ENV)
    assert made.rewards.reshape(3, 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert made.terminated.tolist() == [True, False, True]


def test_floats_become_those_of_the_environment() -> None:
    wide = {"action": np.full((2, 2), 0.2), "agent": {"place": np.full((3, 3), 2.0)}}
    made, plain = (make_recording([_trajectory(2, **more)], ENV) for more in (wide, {}))
    assert all(torch.equal(value, dict(plain.named())[name]) for name, value in made.named())


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    made = make_recording([_trajectory(2), _trajectory(3)], ENV)
    save_recording(tmp_path / "shown.safetensors", made)
    found = load_recording(tmp_path / "shown.safetensors")
    assert dict(found.named()).keys() == dict(made.named()).keys()
    assert all(torch.equal(value, dict(made.named())[name]) for name, value in found.named())
    assert [path.name for path in tmp_path.iterdir()] == ["shown.safetensors"]


def test_a_file_that_is_none_of_them_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shown.safetensors"
    with pytest.raises(CheckpointError, match="shown.safetensors, got none"):
        load_recording(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="got none"):
        load_recording(path)
    save_file({"actions": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="missing 3 required"):
        load_recording(path)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"action": None}, ConfigurationError, "trajectory 1: expected action, got"),
        ({"reward": None, "success": None}, ConfigurationError, "expected reward or success, succ"),
        ({"success": None}, ConfigurationError, "expected success or terminated, got"),
        ({"reward": [1.0]}, ShapeError, "trajectory 1: expected rewards of 2 rows"),
        ({"action": np.zeros((3, 2), np.float32)}, ShapeError, "expected rewards of 3 rows"),
        (
            {"agent": {"place": np.zeros((2, 3), np.float32)}},
            ShapeError,
            r"of 3 rows.*got \(2, 3\)",
        ),
        ({"action": np.zeros((2, 4), np.float32)}, ShapeError, r"'action' of shape \(2,\).*\(4,\)"),
        ({"action": np.zeros(2, np.float32)}, ShapeError, r"at least one action \[A\] each"),
        ({"action": np.zeros((0, 2), np.float32)}, ShapeError, "at least one action"),
        (
            {"action": np.zeros((2, 2), int)},
            ConfigurationError,
            "of torch.float32.*torch.int64; con",
        ),
        ({"reward": [0.0, np.nan]}, NonFiniteError, "finite rewards.*first in row 1"),
        ({"camera": np.zeros((3, 1))}, KeyMismatchError, r"got also \['camera'\]"),
        ({"camera": 3.0}, ShapeError, r"of 3 rows.*got \(\)"),
        ({"task": "walk"}, ConfigurationError, r"of numbers, got others under \['task'\]"),
        ({"agent": {}}, ConfigurationError, r"observations of the first, .*, got \[\]"),
    ],
)
def test_what_is_wrong_with_a_trajectory_is_said(
    changes: dict[str, Any], error: type[ModeregError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        make_recording([_trajectory(3), _trajectory(2, **changes)], ENV)


def test_no_trajectory_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one trajectory, got none"):
        make_recording([], ENV)


def test_what_is_read_must_have_been_recorded() -> None:
    made = make_recording([_trajectory(2)], ENV)
    made.check(ENV, [("agent", "place")])
    with pytest.raises(KeyMismatchError, match=r"also the observations \['camera'\]"):
        made.check(ENV, ["camera"])
    with pytest.raises(ShapeError, match="2 episodes"):
        Recording({}, torch.zeros(4, 2), torch.zeros(3), torch.tensor([2, 2]), torch.ones(2).bool())
    assert keys.OBSERVATION not in made.observations
