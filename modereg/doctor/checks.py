"""The checks that modereg brings; none of them imports torch."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

__all__ = ["GROUP", "Finding", "examine"]

GROUP = "modereg.doctor"
"""Entry-point group of further checks."""

DEVELOPERS = {"bench", "dev", "docs", "mutation"}
"""Extras for work on modereg itself, which its users do not miss."""

LEAST_MEMORY = 2.0
"""Free memory below which even small runs are in danger, GiB."""

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of ``modereg doctor``.

    Attributes:
        name: what was looked at.
        status: ``ok``; ``absent``, which is no fault; or ``wrong``.
        found: what there is, or what is missing.
        command: the one command that mends it, or None where a command cannot.
        advice: what to do where no command mends it.
        required: whether nothing works until it is mended.
    """

    name: str
    status: Literal["ok", "absent", "wrong"]
    found: str
    command: tuple[str, ...] | None = None
    advice: str | None = None
    required: bool = False

    @property
    def mend(self) -> str | None:
        """What mends it, as one would type it."""
        return self.advice if self.command is None else shlex.join(self.command)

    @property
    def fatal(self) -> bool:
        """Whether something required is wrong."""
        return self.required and self.status == "wrong"


def examine() -> list[Finding]:
    """Run every check, those of other packages last."""
    return [*python(), *libraries(), *extras(), *gpu(), *memory(), *further()]


def python() -> Iterable[Finding]:
    """Say which Python, modereg and torch these are."""
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    for name in ("modereg", "torch"):
        yield Finding(name, "ok" if _version(name) else "absent", _version(name) or "missing")


def libraries() -> Iterable[Finding]:
    """Ask ``pip check`` which libraries are missing, or not of the version that others need."""
    if find_spec("pip") is None:
        advice = f"{sys.executable} -m ensurepip, or ask the installer that made this environment"
        yield Finding(
            "libraries", "absent", "pip, which would check them, is missing", None, advice
        )
        return
    done = subprocess.run([*_PIP, "check"], capture_output=True, text=True)
    wrong = [line for line in done.stdout.splitlines() if done.returncode and line.strip()]
    for line in wrong:
        found = _COMPLAINT.match(line)
        ours = found is not None and found["owner"] == "modereg"
        command = None if found is None else (*_PIP, "install", found["needs"])
        yield Finding("libraries", "wrong", line, command, required=ours)
    if not wrong:
        yield Finding("libraries", "ok", done.stdout.strip() or done.stderr.strip())


def extras() -> Iterable[Finding]:
    """Say of every extra whether its libraries are installed."""
    if find_spec("packaging") is None:
        return  # tensordict requires it, and the check of the libraries has said so
    from packaging.requirements import Requirement

    lines = [Requirement(line) for line in metadata.requires("modereg") or ()]
    for extra in sorted(metadata.metadata("modereg").get_all("Provides-Extra") or ()):
        wanted = [
            line
            for line in lines
            if (marker := line.marker) is not None
            and "extra" in str(marker)
            and marker.evaluate({"extra": extra})
        ]
        if extra in DEVELOPERS or not wanted:
            continue
        missing = [
            f"{line.name} {_version(line.name) or 'is missing'}, expected {line}".partition(";")[0]
            for line in wanted
            if not _version(line.name)
            or not line.specifier.contains(_version(line.name), prereleases=True)
        ]
        if missing:
            command = (*_PIP, "install", f"modereg[{extra}]")
            yield Finding(f"[{extra}]", "absent", "; ".join(missing), command)
        else:
            found = ", ".join(f"{line.name} {_version(line.name)}" for line in wanted)
            yield Finding(f"[{extra}]", "ok", found)


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


def further() -> Iterable[Finding]:
    """Run the checks of other packages; one that fails is a finding itself."""
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            yield from point.load()()
        except Exception as error:
            found = f"its check ({point.value}) failed: {type(error).__name__}: {error}"
            yield Finding(point.name, "wrong", found, advice="report it to that package")


_PIP = (sys.executable, "-m", "pip")

_COMPLAINT = re.compile(
    r"(?P<owner>\S+) \S+ (?:requires|has requirement) (?P<needs>.+?), "
    r"(?:which is not installed|but you have .+)\.$"
)
"""A line of ``pip check``."""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
