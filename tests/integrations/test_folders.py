"""Folders of other libraries' policies: changed, they are refused, whatever was changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modereg.errors import CheckpointError
from modereg.keys import from_json
from modereg_integrations.folders import (
    LARGEST,
    OPTIONS,
    check_sizes,
    is_key,
    open_folder,
    sealed_folder,
)

KINDS = {"key": is_key, "steps": lambda value: type(value) is int and 0 < value < 100}
SAVED = {"key": ["a", "b"], "steps": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sealed_folder(tmp_path / "policy", SAVED) as new:
        (new / "part").mkdir()
        (new / "part" / "weights.safetensors").write_bytes(bytes(range(200)))
        (new / "config.json").write_text('{"horizon": 8}')
    return tmp_path / "policy"


def test_what_was_saved_comes_back(folder: Path) -> None:
    assert open_folder(folder, KINDS) == SAVED


def test_a_folder_of_the_library_has_no_options(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert open_folder(tmp_path, KINDS) == {}


@pytest.mark.parametrize("name", [OPTIONS, "config.json", "part/weights.safetensors"])
def test_every_bit_counts(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), max(len(whole) // 40, 1)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 7
        (folder / name).write_bytes(data)
        if name != OPTIONS or _differs(data, whole):
            with pytest.raises(CheckpointError):
                open_folder(folder, KINDS)


def _differs(data: bytes, whole: bytes) -> bool:
    """Whether a text is other JSON: a blank more or less decides nothing."""
    try:
        return bool(json.loads(data) != json.loads(whole))
    except ValueError:
        return True


@pytest.mark.parametrize("name", ["config.json", "part/weights.safetensors"])
def test_so_does_every_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is not what was saved"):
        open_folder(folder, KINDS)


def test_files_beside_them_are_refused_unless_they_decide_nothing(folder: Path) -> None:
    (folder / ".cache").mkdir()
    for inert in ("README.md", ".cache/download.json"):
        (folder / inert).write_text("{}")
    assert open_folder(folder, KINDS) == SAVED
    for name in ("adapter_config.json", "more.safetensors"):
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match="adapter_config.json, more.safetensors are not"):
        open_folder(folder, KINDS)


@pytest.mark.parametrize("field", ["format", "options", "files", "digest"])
def test_a_part_that_is_gone_is_noticed(folder: Path, field: str) -> None:
    record = json.loads((folder / OPTIONS).read_text())
    record.pop(field)
    (folder / OPTIONS).write_text(json.dumps(record))
    with pytest.raises(CheckpointError):
        open_folder(folder, KINDS)


@pytest.mark.parametrize(
    "changed",
    [{"steps": 1000}, {"steps": True}, {"steps": "8"}, {"key": []}, {"key": 3}, {"other": 1}],
)
def test_options_of_other_types_are_refused_even_with_a_digest(
    folder: Path, changed: dict[str, Any]
) -> None:
    record = json.loads((folder / OPTIONS).read_text())
    record["options"] |= changed
    del record["digest"]
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    (folder / OPTIONS).write_text(json.dumps(record | {"digest": digest}))
    with pytest.raises(CheckpointError, match="cannot be|expected options"):
        open_folder(folder, KINDS)


def test_other_work_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"), sealed_folder(tmp_path, SAVED):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_sizes_that_no_policy_has() -> None:
    path = Path("config.json")
    check_sizes(path, {"num_steps": LARGEST, "rope_theta": 1e7, "vocab_size": 257152})
    for config in (
        {"num_train_timesteps": 10**9},
        {"down_dims": [64, 10**9]},
        {"text": {"num_hidden_layers": 1e9}},
        {"parts": [{"head_dim": 10**9}]},
    ):
        with pytest.raises(CheckpointError, match=f"of at most {LARGEST} in config.json"):
            check_sizes(path, config)


def test_keys() -> None:
    assert from_json(["a", "b"]) == ("a", "b")
    assert from_json("a") == "a"
    assert not any(map(is_key, [None, [], ["a", 3], {}, "", [["a"]]]))
