from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from modereg import files, storage
from modereg.errors import CheckpointError
from modereg.files import read_json, read_text, replace_folder, write_atomic, write_json
from modereg.storage import fingerprint, load_state, save_state, state_fingerprint, uncompiled

WRITER = """
import sys, torch
from pathlib import Path
from modereg.files import write_json
from modereg.storage import save_state
folder, number = Path(sys.argv[1]), 0
while True:
    number += 1
    save_state(folder / "state.pt", {"number": number, "data": torch.full((250_000,), number)})
    write_json(folder / "state.json", {"number": number, "data": [number] * 20_000})
"""


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    last = 0
    for moment in (0.0, 0.003, 0.011, 0.02):
        for path in tmp_path.iterdir():
            path.unlink()
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "state.json").exists():
                assert time.monotonic() < deadline, "the writer wrote nothing"
                time.sleep(0.001)
            time.sleep(moment)
        finally:
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
        state, other = load_state(tmp_path / "state.pt"), read_json(tmp_path / "state.json")
        last = state["number"]
        assert torch.equal(state["data"], torch.full((250_000,), last))
        assert other["data"] == [other["number"]] * 20_000
        assert other["number"] in (last, last - 1)
    assert last >= 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


REPLACER = """
import sys
from pathlib import Path
from modereg.files import replace_folder
folder, number = Path(sys.argv[1]), 0
while True:
    number += 1
    with replace_folder(folder) as new:
        (new / "deep").mkdir()
        for name in ("first", "deep/second"):
            (new / name).write_text(str(number) * 10_000)
"""


def _is_whole(folder: Path) -> bool:
    """Read a folder through one open of it, as what replaces it meanwhile can't reach."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        read = []
        for name in ("first", "deep/second"):
            file = os.open(name, os.O_RDONLY, dir_fd=handle)
            read.append(os.read(file, 100_000))
            os.close(file)
    except FileNotFoundError:  # replaced and removed while it was read
        return folder.exists()
    finally:
        os.close(handle)
    return read[0] == read[1] and len(read[0]) >= 10_000


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_whole_while_it_is_replaced_and_after_a_kill(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    for moment in (0.0, 0.003, 0.011, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", REPLACER, str(folder)])
        try:
            deadline = time.monotonic() + 60
            while not folder.exists():
                assert time.monotonic() < deadline, "the writer wrote nothing"
                time.sleep(0.001)
            seen = [_is_whole(folder) for _ in range(50)]
            time.sleep(moment)
        finally:
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
        assert all([*seen, _is_whole(folder)])
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    (tmp_path / ".saved.0123abcd.part").mkdir()  # as a kill leaves it
    (tmp_path / ".saved.yaml").write_text("somebody's own")
    with replace_folder(folder) as new:
        (new / "only").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["only"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".saved.yaml", "saved"]


def test_two_writers_of_one_place_leave_each_other_alone(tmp_path: Path) -> None:
    with replace_folder(tmp_path / "saved") as first, replace_folder(tmp_path / "saved") as second:
        write_atomic(second / "a", "second")
        write_atomic(first / "a", "first")
    assert (tmp_path / "saved" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_link_to_a_folder_stays_and_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replace_folder(tmp_path / "link") as new:
        (new / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").exists()
    with (
        pytest.raises(CheckpointError, match="expected a folder to save to, got the file"),
        replace_folder(tmp_path / "real" / "a"),
    ):
        pass


def test_leftovers_of_a_killed_write_are_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".file.0123abcd.part").write_text("half")
    write_atomic(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("damage", ["missing", "folder", "loop", "bytes", "cut", "deep", "number"])
def test_json_that_cannot_be_read_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    texts = {"cut": '{"a": [1, 2', "deep": "[" * 100_000, "number": "9" * 5000}
    if damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path)
    elif damage == "bytes":
        path.write_bytes(b"\xff\xfe")
    elif damage in texts:
        path.write_text(texts[damage])
    with pytest.raises(CheckpointError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 400


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.randn(3, 2, dtype=torch.float64), torch.tensor(True)],
        "nested": {"text": "a", "none": None, 3: (1, 2.5)},
    }
    save_state(tmp_path / "a" / "state.pt", state)
    found = load_state(tmp_path / "a" / "state.pt")
    assert torch.equal(found["tensors"][0], state["tensors"][0])
    assert found["tensors"][0].dtype == torch.float64
    assert found["nested"] == state["nested"]


def _truncate(data: bytes) -> bytes:
    return data[:-1]


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[32:],  # torch.save without our digest
        lambda data: b"#!/bin/sh\nexit 1\n" * 100,
    ],
    ids=["truncated", "altered", "stump", "empty", "foreign", "text"],
)
def test_damage_is_found(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"tensor": torch.arange(100)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="truncated, altered or foreign; delete it"):
        load_state(path)


def test_nothing_in_a_state_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    save_state(tmp_path / "state.pt", {"trap": Trap()})
    with pytest.raises(CheckpointError, match="of only tensors, numbers"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "trapped").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (load_state, read_json, read_text):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/absent, found none"):
            read(tmp_path / "absent")


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}
    assert json.loads((tmp_path / "a.json").read_text())
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    for damaged in (b'{"b": [1, ', b"\xff\xfe\x00", b"[" * 200_000, b"1" * 5000):
        (tmp_path / "a.json").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="expected (JSON|text) in .*damaged"):
            read_json(tmp_path / "a.json")


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "loop"):
        for read in (load_state, read_json):
            with pytest.raises(CheckpointError, match="expected a"):
                read(path)


def _module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    module.register_buffer("scalar", torch.tensor(2, dtype=torch.int64))
    return module


def test_a_fingerprint_depends_on_values_only(tmp_path: Path) -> None:
    module = _module()
    expected = fingerprint(module)
    assert len(expected) == 64
    assert state_fingerprint(module.state_dict()) == expected
    compiled = torch.compile(module, backend="eager")
    assert fingerprint(compiled) == expected
    assert [*map(uncompiled, compiled.state_dict())] == [*module.state_dict()]
    save_state(tmp_path / "state.pt", dict(module.state_dict()))
    other = _module(1)
    assert fingerprint(other) != expected
    other.load_state_dict(load_state(tmp_path / "state.pt"))
    assert fingerprint(other) == expected
    assert fingerprint(module.eval().requires_grad_(False)) == expected
    with torch.no_grad():  # another layout in memory, the same values
        module[0].weight.data = module[0].weight.t().contiguous().t()
    assert not module[0].weight.is_contiguous()
    assert fingerprint(module) == expected


@pytest.mark.parametrize("name", list(_module().state_dict()))
def test_a_fingerprint_differs_on_any_change(name: str) -> None:
    module = _module()
    before = fingerprint(module)
    value = module.state_dict()[name].view(-1)
    if value.is_floating_point():
        value[-1] = torch.nextafter(value[-1], torch.tensor(torch.inf))
    else:
        value[-1] += 1
    assert fingerprint(module) != before


def test_a_fingerprint_sees_types_shapes_and_names() -> None:
    def of(value: torch.Tensor, name: str = "x") -> str:
        holder = nn.Module()
        holder.register_buffer(name, value)
        return fingerprint(holder)

    zeros = torch.zeros(4, dtype=torch.int32)
    values = [zeros, zeros.view(2, 2), zeros.view(torch.float32), zeros.bfloat16()]
    prints = [of(value) for value in values] + [of(zeros, "y")]
    assert len(set(prints)) == len(prints)


def test_every_public_name_is_tested_here() -> None:
    assert set(storage.__all__) <= set(globals())
