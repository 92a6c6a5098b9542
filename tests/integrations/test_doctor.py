from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from modereg.doctor import GROUP
from modereg_integrations import doctor
from modereg_integrations.maniskill import vulkan


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that MODEREG_VULKAN names; SAPIEN counts as installed."""
    monkeypatch.setenv("MODEREG_VULKAN", str(tmp_path / "driver"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: ModuleSpec(name, None))
    return tmp_path / "driver"


def serve(monkeypatch: pytest.MonkeyPatch, system: bool, unpacked: bool) -> None:
    """Have the system's own device, or the one of an unpacked driver, work."""

    def works(environment: Mapping[str, str] | None = None) -> bool:
        return unpacked if environment else system

    monkeypatch.setattr(vulkan, "device_works", works)


def unpack(folder: Path) -> None:
    (folder / "lib").mkdir(parents=True)
    (folder / "env.sh").touch()


def test_the_installed_package_declares_it() -> None:
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    assert points["vulkan"].load() is doctor.vulkan_check


def test_without_maniskill_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    (finding,) = doctor.vulkan_check()
    assert (finding.status, finding.mend) == ("absent", None)


def test_the_systems_device_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, True, False)
    (finding,) = doctor.vulkan_check()
    assert (finding.status, finding.found) == ("ok", "SAPIEN has a device")


def test_an_unpacked_driver_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, False, True)
    unpack(folder)
    (finding,) = doctor.vulkan_check()
    assert finding.status == "ok"
    assert str(folder) in finding.found


def test_without_any_the_command_unpacks_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, False, True)
    (finding,) = doctor.vulkan_check()
    assert finding.status == "wrong"
    assert not finding.fatal
    module = "modereg_integrations.maniskill.vulkan"
    assert finding.command == (sys.executable, "-m", module, "--prefix", str(folder))


def test_an_unpacked_driver_that_does_not_serve_is_to_be_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, False, False)
    unpack(folder)
    (finding,) = doctor.vulkan_check()
    assert (finding.status, finding.command) == ("wrong", None)
    assert f"delete {folder}" in str(finding.mend)


def test_the_real_probe_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEREG_VULKAN", str(tmp_path))
    expected = "absent"
    if find_spec("sapien") is not None:
        expected = "ok" if vulkan.device_works() else "wrong"
    (finding,) = doctor.vulkan_check()
    assert (finding.name, finding.status) == ("vulkan", expected)
