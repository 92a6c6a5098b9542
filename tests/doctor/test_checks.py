from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from modereg.doctor import checks
from modereg.doctor.findings import Finding


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
    expected = {"python", "modereg", "torch", "torchrl", "tensordict", "diffusers", "gymnasium"}
    assert expected | {"gpu", "memory", "threads"} <= set(findings)
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


def test_missing_and_wrong_versions_name_the_command(declare: Callable[..., None]) -> None:
    declare(["numpy>=999", "no-such-library[all]~=1.0", "tqdm>=4", "wandb; extra == 'wandb'"])
    old, missing, fine = checks.libraries()
    assert (old.status, old.fatal) == ("wrong", True)
    assert old.found == f"numpy {metadata.version('numpy')}, expected numpy>=999"
    assert old.command == (sys.executable, "-m", "pip", "install", "numpy>=999")
    assert missing.found == "no-such-library is not installed"
    assert missing.mend.endswith("pip install 'no-such-library[all]~=1.0'")
    assert missing.fatal
    assert (fine.status, fine.found) == ("ok", metadata.version("tqdm"))


def test_extras_are_optional_and_those_of_developers_are_left_out(
    declare: Callable[..., None],
) -> None:
    declare(
        [
            "numpy",
            'no-such-library; extra == "toy"',
            "tqdm; extra == 'toy'",
            "numpy; extra == 'there'",
            "no-such-tool; extra == 'dev'",
        ]
    )
    there, toy = checks.extras()
    assert (there.name, there.status, there.command) == ("[there]", "ok", None)
    assert there.found == f"numpy {metadata.version('numpy')}"
    assert (toy.name, toy.status) == ("[toy]", "absent")
    assert toy.found == "no-such-library is not installed"
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


@pytest.mark.parametrize(
    ("value", "status"), [("1", "ok"), ("4,2", "ok"), ("", "wrong"), ("0", "wrong"), ("x", "wrong")]
)
def test_threads_that_openmp_cannot_read_are_a_fault(
    value: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    (finding,) = checks.threads()
    assert finding.status == status
    assert "MKL_NUM_THREADS unset" in finding.found
    assert finding.mend == (None if status == "ok" else "unset OMP_NUM_THREADS")


def test_other_packages_add_checks_and_a_broken_one_is_a_finding(
    declare: Callable[..., None],
) -> None:
    declare(b_mine=f"{__name__}:mine", a_broken="no_such_module:check", c_bad="json:loads")
    broken, found, bad = checks.further()
    assert (broken.name, broken.status, broken.fatal) == ("a_broken", "wrong", False)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in broken.found
    assert found == Finding("mine", "ok", "here")
    assert "TypeError" in bad.found
