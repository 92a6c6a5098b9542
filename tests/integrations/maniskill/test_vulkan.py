from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modereg_integrations.maniskill import vulkan

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://elsewhere.example/node
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.example/debian bookworm main contrib # why
deb http://mirror.example/debian bookworm-updates main
deb-src http://mirror.example/debian bookworm main
"""


def test_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from modereg_integrations.maniskill import vulkan; "
        "print([m for m in ('torch', 'mani_skill', 'tensordict', 'sapien') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_backports_are_added_to_deb822_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    main, security = vulkan._sources(tmp_path)
    assert "Uris: http://mirror.example/debian\n" in main
    assert "Suites: bookworm bookworm-updates bookworm-backports\n" in main
    assert "Types: deb\n" in main
    assert "Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n" in main
    assert "Suites: bookworm-security\n" in security


def test_backports_are_added_to_one_line_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    main, updates = vulkan._sources(tmp_path)
    assert main == (
        "Types: deb\nUris: http://mirror.example/debian\nSuites: bookworm bookworm-backports\n"
        "Components: main contrib\nArchitectures: amd64\nSigned-By: /keys/a.gpg\n"
    )
    assert "Suites: bookworm-updates\n" in updates


def test_without_a_debian_source_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(vulkan.VulkanSetupError, match=r"No apt source.*mesa-vulkan-drivers"):
        vulkan._sources(tmp_path)


@pytest.mark.parametrize("text", ['ID=fedora\nVERSION_ID="42"\n', "ID=debian\n", None])
def test_another_system_is_told_what_to_install(tmp_path: Path, text: str | None) -> None:
    release = tmp_path / "os-release"
    if text is not None:
        release.write_text(text)
    with pytest.raises(vulkan.VulkanSetupError, match=r"dnf install vulkan-loader"):
        vulkan._require_debian_12(release)


def test_a_failure_is_one_sentence_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise vulkan.VulkanSetupError("Install this.")

    monkeypatch.setattr(vulkan, "device_works", lambda: False)
    monkeypatch.setattr(vulkan, "_require_debian_12", refuse)
    assert vulkan.main(["--prefix", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "Install this.\n"
    assert not (tmp_path / "env.sh").exists()


def test_a_working_device_is_left_alone_and_the_second_run_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vulkan.device_works()  # the device that the other tests here run on
    assert vulkan.main(["--prefix", str(tmp_path / "v")]) == 0
    script = Path(capsys.readouterr().out.strip())
    assert "nothing to set" in script.read_text()
    assert not vulkan.activate(tmp_path / "v")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the second run started a process")

    monkeypatch.setattr(subprocess, "run", fail)
    assert vulkan.install(tmp_path / "v") == script


def test_a_broken_driver_does_not_work(tmp_path: Path) -> None:
    manifest = tmp_path / "icd.json"
    driver = {"library_path": str(tmp_path / "none.so"), "api_version": "1.3.0"}
    manifest.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": driver}))
    variables = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
    assert not vulkan.device_works(dict.fromkeys(variables, str(manifest)))


def test_activate_changes_nothing_where_nothing_was_unpacked(tmp_path: Path) -> None:
    assert not vulkan.activate(tmp_path)
