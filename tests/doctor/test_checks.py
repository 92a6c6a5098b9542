from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from email.message import Message
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from modereg.doctor import checks
from modereg.doctor.checks import Finding


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have modereg require something else, or be extended by other packages."""

    def use(requires: list[str] | None = None, **points: str) -> None:
        if requires is not None:
            monkeypatch.setattr(metadata, "requires", lambda name: requires)
        made = [EntryPoint(name, value, checks.GROUP) for name, value in points.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: made)

    return use


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def mine() -> Iterator[Finding]:
    yield Finding("mine", "ok", "here")


def test_here_nothing_required_is_wrong() -> None:
    findings = {finding.name: finding for finding in checks.examine()}
    assert {"python", "modereg", "torch", "libraries", "gpu", "memory"} <= set(findings)
    assert findings["torch"].found == metadata.version("torch")
    assert not any(finding.fatal for finding in findings.values())


def test_it_starts_without_torch_and_quickly() -> None:
    code = (
        "import sys\nfrom modereg.cli import main\nassert main(['doctor', '--json']) == 0\n"
        "print(sorted({'torch', 'torchrl', 'diffusers', 'scipy', 'sapien'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_what_pip_complains_of_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip itself, in a folder where modereg and another package want what is not there."""
    for name, needs in (
        ("modereg", ["numpy>=999", "no-such-library[all]~=1.0"]),
        ("their", ["tqdm<1"]),
    ):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {need}" for need in needs]
        head = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
        (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    findings = {finding.command[-1]: finding for finding in checks.libraries()}
    old = findings["numpy>=999"]
    assert (old.status, old.fatal) == ("wrong", True)
    assert metadata.version("numpy") in old.found
    assert old.command == (sys.executable, "-m", "pip", "install", "numpy>=999")
    missing = next(found for need, found in findings.items() if "no-such-library" in need)
    assert missing.fatal
    assert "not installed" in missing.found
    assert not findings["tqdm<1"].fatal


def test_without_pip_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    (finding,) = checks.libraries()
    assert (finding.status, "ensurepip" in finding.mend) == ("absent", True)
    assert not list(checks.extras())


def test_extras_are_optional_and_those_of_developers_are_left_out(
    declare: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Message()
    for extra in ("toy", "there", "dev"):
        told["Provides-Extra"] = extra
    monkeypatch.setattr(metadata, "metadata", lambda name: told)
    declare(
        [
            "numpy",
            'no-such-library; extra == "toy"',
            "tqdm>=999; extra == 'toy'",
            "numpy; extra == 'there'",
            "no-such-tool; extra == 'dev'",
        ]
    )
    there, toy = checks.extras()
    assert (there.name, there.status, there.command) == ("[there]", "ok", None)
    assert there.found == f"numpy {metadata.version('numpy')}"
    assert (toy.name, toy.status) == ("[toy]", "absent")
    assert "no-such-library is missing" in toy.found
    assert f"tqdm {metadata.version('tqdm')}, expected tqdm>=999" in toy.found
    assert toy.command == (sys.executable, "-m", "pip", "install", "modereg[toy]")
    assert not toy.fatal


@pytest.mark.parametrize(
    ("body", "version", "status", "found"),
    [
        ("echo 'H9, 5 MiB, 9 MiB'; echo 'H9, 6 MiB, 9 MiB'", "2.13.0", "ok", "9 MiB; H9, 6"),
        ("echo 'H9, 5 MiB, 9 MiB'", "2.13.0+cpu", "wrong", "torch is built for the CPU"),
        ("echo broken >&2; exit 9", "2.13.0", "absent", "on the CPU"),
        ("true", "2.13.0", "absent", "on the CPU"),
    ],
)
def test_a_gpu_is_of_use_to_a_torch_built_for_it(
    body: str,
    version: str,
    status: str,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(tmp_path, "nvidia-smi", body)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(metadata, "version", lambda name: version)
    (finding,) = checks.gpu()
    assert finding.status == status
    assert found in finding.found


def test_without_the_tool_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = checks.gpu()
    assert finding.status == "absent"


def test_free_memory_is_the_lesser_of_machine_and_control_group(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    assert checks.free_memory(table, tmp_path) is None
    table.write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable:   {8 * 2**20} kB\n")
    assert checks.free_memory(table, tmp_path) == 8.0
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.free_memory(table, tmp_path) == 8.0
    (tmp_path / "memory.max").write_text(f"{4 * 2**30}\n")
    assert checks.free_memory(table, tmp_path) == 3.0


@pytest.mark.parametrize(
    ("free", "status"), [(None, "absent"), (1.5, "wrong"), (2.0, "ok"), (100.0, "ok")]
)
def test_little_memory_is_a_fault(
    free: float | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "free_memory", lambda: free)
    (finding,) = checks.memory()
    assert finding.status == status
    assert not finding.fatal


def test_other_packages_add_checks_and_a_broken_one_is_a_finding(
    declare: Callable[..., None],
) -> None:
    declare(b_mine=f"{__name__}:mine", a_broken="no_such_module:check", c_bad="json:loads")
    broken, found, bad = checks.further()
    assert (broken.name, broken.status, broken.fatal) == ("a_broken", "wrong", False)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in broken.found
    assert found == Finding("mine", "ok", "here")
    assert "TypeError" in bad.found
