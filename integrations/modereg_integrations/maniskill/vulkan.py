"""A Vulkan software driver for ManiSkill, without root and without a change to the system.

ManiSkill (through SAPIEN) asks for a Vulkan device even where it never draws an image, and the
device must know ``VK_KHR_external_memory_fd``: Mesa's software driver lavapipe has it since
version 24.3. Debian 12 ships an older one; a newer one is in bookworm-backports. ::

    python -m modereg_integrations.maniskill.vulkan --prefix .vulkan

does nothing where a device works already; else it downloads the packages through apt, from the
mirrors that this machine is configured for, unpacks them below the prefix and writes
``<prefix>/env.sh``. A second run finds that file and stops. A process then either starts with
that file sourced, or calls :func:`activate` before it imports ``mani_skill``.
"""

from __future__ import annotations

import argparse
import ctypes
import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["VulkanSetupError", "activate", "device_works", "install", "main"]

CODENAME = "bookworm"
BACKPORTS = f"{CODENAME}-backports"
DRIVER_PACKAGES = ("mesa-vulkan-drivers", "libvulkan1")
HELPER_PACKAGES = ("libx11-6", "libgl1", "libglib2.0-0")  # linked by sapien and opencv
DRIVER = "libvulkan_lvp.so"
SEEDS = (
    "libvulkan.so.1", DRIVER, "libX11.so.6", "libGL.so.1", "libglib-2.0.so.0",
    "libgthread-2.0.so.0",
)  # fmt: skip
COMMAND = "python -m modereg_integrations.maniskill.vulkan --prefix .vulkan"
ELSEWHERE = (
    "Install a Vulkan loader and a driver, for example Mesa's lavapipe of version 24.3 or newer "
    "(Debian 13, Ubuntu 25.04 and newer: apt install libvulkan1 mesa-vulkan-drivers; Fedora: "
    "dnf install vulkan-loader mesa-vulkan-drivers; Arch: pacman -S vulkan-swrast), or the "
    "vendor's driver of your GPU."
)
_PROBE = "import warnings; warnings.simplefilter('ignore'); import sapien; " + (
    "sapien.render.RenderSystem()"
)


class VulkanSetupError(RuntimeError):
    """No Vulkan driver could be set up; the sentence says what to install instead."""


def device_works(environment: Mapping[str, str] | None = None) -> bool:
    """Whether SAPIEN finds a Vulkan device that it can use.

    Returns:
        True if a fresh Python process creates SAPIEN's render system (about one second).
    """
    env = {**os.environ, **(environment or {})}
    result = subprocess.run([sys.executable, "-c", _PROBE], env=env, capture_output=True)
    return result.returncode == 0


def activate(prefix: str | os.PathLike[str] = ".vulkan") -> bool:
    """Make this process and its children use the driver that :func:`install` unpacked.

    Call it before ``sapien`` or ``mani_skill`` is imported. The driver's libraries are loaded by
    their absolute paths, since a change of ``LD_LIBRARY_PATH`` does not reach a running process;
    the variables are set for child processes and for SAPIEN's own search for a loader.

    Args:
        prefix: the folder given to :func:`install`.

    Returns:
        False, and nothing is changed, if no driver lies there (the system's own serves).
    """
    libraries = Path(prefix).resolve() / "lib"
    if not (libraries.parent / "env.sh").exists() or not libraries.is_dir():
        return False
    _preload(sorted(libraries.iterdir()))
    for name, value in _environment(libraries.parent).items():
        os.environ[name] = value
    return True


def install(prefix: str | os.PathLike[str] = ".vulkan") -> Path:
    """Set up a Vulkan driver below ``prefix``, unless the system's own one works.

    Args:
        prefix: a folder; it is made. Nothing outside it is written.

    Returns:
        ``<prefix>/env.sh``, a shell file with the variables to set (none for the system's own).

    Raises:
        VulkanSetupError: on another system than Debian 12, or if apt or SAPIEN fails.
    """
    folder = Path(prefix).resolve()
    script = folder / "env.sh"
    if script.exists():
        return script
    folder.mkdir(parents=True, exist_ok=True)
    if device_works():
        _write(script, "# The system's own Vulkan device works: nothing to set.\n")
        return script
    _require_debian_12()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        _collect(_download(Path(work)), folder / "lib")
    manifest = {
        "file_format_version": "1.0.0",
        "ICD": {"library_path": str(folder / "lib" / DRIVER), "api_version": "1.4.305"},
    }
    _write(folder / "lvp_icd.json", json.dumps(manifest, indent=2) + "\n")
    environment = _environment(folder)
    if not device_works(environment):
        raise VulkanSetupError(
            f"The driver unpacked in {folder} does not serve SAPIEN in {sys.executable}: check "
            f"that modereg[maniskill] is installed there. {ELSEWHERE}"
        )
    manifest_path, libraries = shlex.quote(environment["VK_DRIVER_FILES"]), folder / "lib"
    _write(
        script,
        f"export VK_DRIVER_FILES={manifest_path} VK_ICD_FILENAMES={manifest_path}\n"
        f"export LD_LIBRARY_PATH={shlex.quote(str(libraries))}"
        "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n",
    )
    return script


def main(arguments: list[str] | None = None) -> int:
    """Run :func:`install` from the command line and print the file with the variables to set.

    Args:
        arguments: command line, ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 0, or 1 with a sentence on stderr that says what to install.
    """
    parser = argparse.ArgumentParser(description="Set up a Vulkan driver for ManiSkill.")
    parser.add_argument("--prefix", default=".vulkan", help="folder to unpack the driver into")
    try:
        script = install(parser.parse_args(arguments).prefix)
    except VulkanSetupError as error:
        print(error, file=sys.stderr)
        return 1
    print(script)
    return 0


def _environment(folder: Path) -> dict[str, str]:
    """The variables under which the loader in ``folder`` finds its one driver."""
    manifest, libraries = str(folder / "lvp_icd.json"), str(folder / "lib")
    others = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and p != libraries]
    return {
        "VK_DRIVER_FILES": manifest,
        "VK_ICD_FILENAMES": manifest,
        "LD_LIBRARY_PATH": ":".join([libraries, *others]),
    }


def _preload(libraries: Iterable[Path]) -> None:
    """Load shared libraries by their paths, each after those it needs."""
    pending = list(libraries)
    while pending:
        failed = [library for library in pending if not _loads(library)]
        if len(failed) == len(pending):
            ctypes.CDLL(str(failed[0]))  # raises, with the linker's own sentence
        pending = failed


def _loads(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _require_debian_12(release: Path = Path("/etc/os-release")) -> None:
    """Refuse other systems, and those without apt."""
    text = release.read_text() if release.exists() else ""
    debian = re.search(r'^ID="?debian"?$', text, re.M)
    bookworm = re.search(rf'^VERSION_CODENAME="?{CODENAME}"?$', text, re.M)
    tools = [tool for tool in ("apt-get", "dpkg", "dpkg-query", "ldd") if shutil.which(tool)]
    if not (debian and bookworm and len(tools) == 4):
        raise VulkanSetupError(f"ManiSkill found no usable Vulkan device. {ELSEWHERE}")


def _download(work: Path) -> Path:
    """Fetch the driver and what it needs beyond the system, and unpack all below ``work``."""
    root, archives = work / "root", work / "archives"
    for folder in (root, archives / "partial", work / "lists" / "partial", work / "parts"):
        folder.mkdir(parents=True)
    (work / "parts" / "system.sources").write_text("\n".join(_sources()))
    options = {
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work,
        "Dir::Cache::archives": archives,
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Debug::NoLocking": 1,
        "APT::Sandbox::User": getpass.getuser(),
        "APT::Update::Post-Invoke-Success::": "true",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    fetch = ["-y", "--download-only", "--no-install-recommends", f"-t{BACKPORTS}", "install"]
    _call([*apt, "update"])
    _call([*apt, *fetch, *DRIVER_PACKAGES, *filter(_is_missing, HELPER_PACKAGES)])
    for archive in sorted(archives.glob("*.deb")):
        _call(["dpkg", "-x", str(archive), str(root)])
    return root


def _collect(root: Path, target: Path) -> None:
    """Copy the driver and the libraries it needs from an unpacked ``root`` to ``target``."""
    paths = {path.name: path for path in root.rglob("*.so*")}
    search = ":".join(sorted({str(path.parent) for path in paths.values()}))
    env = {**os.environ, "LD_LIBRARY_PATH": search}
    kept = {name for name in SEEDS if name in paths}
    for name in tuple(kept):
        listing = subprocess.run(
            ["ldd", str(paths[name])], env=env, capture_output=True, text=True, check=True
        ).stdout
        missing = re.findall(r"^\s*(\S+) => not found", listing, re.M)
        if missing:
            raise VulkanSetupError(f"{name} needs {', '.join(missing)}. {ELSEWHERE}")
        found = re.findall(rf"=> ({re.escape(str(root))}\S+)", listing)
        kept |= {Path(path).name for path in found}
    target.mkdir(exist_ok=True)
    for name in sorted(kept):
        shutil.copyfile(paths[name], target / name)


def _is_missing(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout != "installed"


def _sources(folder: Path = Path("/etc/apt")) -> list[str]:
    """This machine's apt sources of Debian 12 as deb822 paragraphs, with the backports added."""
    texts = [path.read_text() for path in sorted(folder.glob("sources.list.d/*.sources"))]
    lists = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]
    lines = "\n".join(path.read_text() for path in lists if path.exists())
    paragraphs = [*_deb822_paragraphs("\n\n".join(texts)), *_one_line_paragraphs(lines)]
    found = [_with_backports(fields) for fields in paragraphs if _is_debian_12(fields)]
    if not any(BACKPORTS in fields["Suites"] for fields in found):
        raise VulkanSetupError(
            f"No apt source of {CODENAME} is configured on this machine, expected one under "
            f"{folder}. {ELSEWHERE}"
        )
    return ["".join(f"{key}: {value}\n" for key, value in fields.items()) for fields in found]


def _deb822_paragraphs(text: str) -> list[dict[str, str]]:
    """Split deb822 text into paragraphs; continuation lines stay within their field."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.M)
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        fields = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", block, re.M)
        paragraphs.append({key.title(): value for key, value in fields})
    return paragraphs


def _one_line_paragraphs(text: str) -> list[dict[str, str]]:
    """Rewrite ``deb [option=value ...] URI suite component ...`` lines as deb822 fields."""
    names = {"arch": "Architectures", "signed-by": "Signed-By", "trusted": "Trusted"}
    paragraphs = []
    for options, uri, suite, components in re.findall(
        r"^deb[ \t]+(?:\[([^\]]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)", text, re.M
    ):
        pairs = [option.split("=", 1) for option in options.split() if "=" in option]
        extra = {names[key]: value for key, value in pairs if key in names}
        fields = {"Types": "deb", "Uris": uri, "Suites": suite, "Components": components.strip()}
        paragraphs.append({**fields, **extra})
    return paragraphs


def _is_debian_12(fields: Mapping[str, str]) -> bool:
    suites = [suite.split("/")[0] for suite in fields.get("Suites", "").split()]
    enabled = fields.get("Enabled", "yes").lower() not in ("no", "false")
    names = (CODENAME, f"{CODENAME}-updates", f"{CODENAME}-security", BACKPORTS)
    return enabled and "deb" in fields.get("Types", "") and any(suite in names for suite in suites)


def _with_backports(fields: Mapping[str, str]) -> dict[str, str]:
    suites = fields["Suites"].split()
    if CODENAME in suites and BACKPORTS not in suites:
        suites.append(BACKPORTS)
    return {**fields, "Types": "deb", "Suites": " ".join(suites)}


def _call(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        output = (result.stderr or result.stdout).strip()
        raise VulkanSetupError(f"`{shlex.join(command)}` failed: {output}\n{ELSEWHERE}")


def _write(path: Path, text: str) -> None:
    """Write a file in one step, so that an interrupted run leaves none."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
