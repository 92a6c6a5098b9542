"""The checks that modereg brings; none of them imports torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from modereg.doctor.findings import Finding

__all__ = ["GROUP", "examine"]

GROUP = "modereg.doctor"
"""Entry-point group of further checks."""

DEVELOPERS = {"bench", "dev", "docs", "mutation"}
"""Extras for work on modereg itself, which its users do not miss."""

LEAST_MEMORY = 2.0
"""Free memory below which even small runs are in danger, GiB."""

GIB = 2**30


def examine() -> list[Finding]:
    """Run every check, those of other packages last."""
    own = [*python(), *libraries(), *extras(), *gpu(), *memory(), *threads()]
    return [*own, *further()]


def python() -> Iterable[Finding]:
    """Say which Python this is, and which modereg."""
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("modereg", "ok", metadata.version("modereg"))


def libraries() -> Iterable[Finding]:
    """Compare what modereg requires with the installed versions."""
    for requirement, extra in _requirements():
        if extra is None:
            yield _library(requirement)


def extras() -> Iterable[Finding]:
    """Say of every extra whether its libraries are installed."""
    wanted: dict[str, list[str]] = {}
    for requirement, extra in _requirements():
        if extra is not None and extra not in DEVELOPERS:
            wanted.setdefault(extra, []).append(requirement)
    for extra, requirements in sorted(wanted.items()):
        states = [_library(requirement) for requirement in requirements]
        missing = [state.found for state in states if state.status != "ok"]
        present = ", ".join(f"{state.name} {state.found}" for state in states)
        yield Finding(
            f"[{extra}]",
            "absent" if missing else "ok",
            "; ".join(missing) if missing else present,
            _pip(f"modereg[{extra}]") if missing else None,
        )


def gpu() -> Iterable[Finding]:
    """Say which GPU there is, and whether torch was built for it."""
    tool = shutil.which("nvidia-smi")
    query = ["--query-gpu=name,memory.free,memory.total", "--format=csv,noheader"]
    done = subprocess.run([tool, *query], capture_output=True, text=True) if tool else None
    if done is None or done.returncode or not done.stdout.strip():
        yield Finding("gpu", "absent", "none by NVIDIA; modereg runs on the CPU")
        return
    found = "; ".join(done.stdout.strip().splitlines())
    if _version("torch").endswith("+cpu"):
        advice = "install torch's CUDA build, see pytorch.org, to use it"
        yield Finding("gpu", "wrong", f"{found}, but torch is built for the CPU", advice=advice)
    else:
        yield Finding("gpu", "ok", found)


def memory() -> Iterable[Finding]:
    """Say how much memory is free, within the limit of the control group if there is one."""
    free = free_memory()
    if free is None:
        yield Finding("memory", "absent", "this system does not say how much is free")
    elif free < LEAST_MEMORY:
        advice = "end other programs, or take fewer environments with --task.num-envs"
        yield Finding("memory", "wrong", f"{free:.1f} GiB free", advice=advice)
    else:
        yield Finding("memory", "ok", f"{free:.1f} GiB free")


def free_memory(
    meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the free memory in GiB, None where the system does not say.

    Args:
        meminfo: the kernel's table.
        group: folder of the control group.
    """
    if not meminfo.exists():
        return None
    line = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.M)
    known = [] if line is None else [int(line[1]) * 1024]
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        known.append(int(limit.read_text()) - int(used.read_text()))
    return min(known) / GIB if known else None


def threads() -> Iterable[Finding]:
    """Say how many cores there are, and what the variables of OpenMP and MKL ask for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    shown = ", ".join(f"{name} {'unset' if v is None else v}" for name, v in asked.items())
    found = f"{cores} cores; {shown}; a command takes one thread"
    odd = [name for name, value in asked.items() if value is not None and not _counts(value)]
    if odd:
        yield Finding("threads", "wrong", found, advice=f"unset {' '.join(odd)}")
    else:
        yield Finding("threads", "ok", found)


def further() -> Iterable[Finding]:
    """Run the checks of other packages; one that fails is a finding itself."""
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            yield from point.load()()
        except Exception as error:
            found = f"its check ({point.value}) failed: {type(error).__name__}: {error}"
            yield Finding(point.name, "wrong", found, advice="report it to that package")


def _requirements() -> Iterable[tuple[str, str | None]]:
    """Yield what modereg's metadata requires, ``name>=version``, and the extra that it is for."""
    for line in metadata.requires("modereg") or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        yield requirement, None if extra is None else extra[1]


def _library(requirement: str) -> Finding:
    name = re.split(r"[\s<>=!~\[]", requirement, maxsplit=1)[0]
    version, fix = _version(name), _pip(requirement)
    if not version:
        return Finding(name, "wrong", f"{name} is not installed", fix, required=True)
    if not _fits(requirement, version):
        found = f"{name} {version}, expected {requirement}"
        return Finding(name, "wrong", found, fix, required=True)
    return Finding(name, "ok", version, required=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _fits(requirement: str, version: str) -> bool:
    """Whether a version is in a requirement; where packaging is missing, nobody can tell."""
    if find_spec("packaging") is None:
        return True  # tensordict requires it, and pip will install both
    from packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _pip(requirement: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pip", "install", requirement)


def _counts(value: str) -> bool:
    """Whether a variable holds positive numbers with commas, as OpenMP reads them."""
    return re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", value) is not None
