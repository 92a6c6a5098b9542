"""What ``modereg doctor`` checks of the adapters, by entry points of ``modereg.doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from modereg.doctor import Finding

__all__ = ["vulkan_check"]


def vulkan_check() -> Iterable[Finding]:
    """Say whether ManiSkill finds a Vulkan device, which it needs even where it draws nothing.

    A driver unpacked in ``.vulkan``, or in the folder that MODEREG_VULKAN names, counts:
    :class:`~modereg_integrations.maniskill.ManiSkillEnv` uses it by itself.
    """
    if find_spec("sapien") is None:
        yield Finding("vulkan", "absent", "not looked for: ManiSkill is not installed")
        return
    from modereg_integrations.maniskill import vulkan

    prefix = Path(os.environ.get("MODEREG_VULKAN", ".vulkan"))
    module = "modereg_integrations.maniskill.vulkan"
    unpacked = (prefix / "env.sh").exists() and (prefix / "lib").is_dir()
    if vulkan.device_works():
        yield Finding("vulkan", "ok", "SAPIEN has a device")
    elif not unpacked:
        command = (sys.executable, "-m", module, "--prefix", str(prefix))
        yield Finding("vulkan", "wrong", "SAPIEN has no device", command)
    elif vulkan.device_works(vulkan._environment(prefix.resolve())):
        yield Finding("vulkan", "ok", f"SAPIEN has the driver unpacked in {prefix}")
    else:
        found = f"SAPIEN has no device, the driver in {prefix} does not serve it"
        advice = f"delete {prefix}, then python -m {module} --prefix {prefix}"
        yield Finding("vulkan", "wrong", found, advice=advice)
