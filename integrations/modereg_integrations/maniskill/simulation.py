"""Opening a ManiSkill simulation; its optional library and a Vulkan device come first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from modereg.errors import ConfigurationError, MissingDependencyError, MissingDeviceError
from modereg.suggestions import with_suggestion
from modereg_integrations.maniskill.registry import register_own_tasks
from modereg_integrations.maniskill.vulkan import COMMAND, activate

__all__ = ["make_simulation", "registered_limit"]


def make_simulation(env_id: str, num_envs: int, options: Mapping[str, Any]) -> Any:
    """One ManiSkill simulation of ``num_envs`` rows, without its time-limit wrapper.

    Args:
        env_id: the id under which the task is registered, ours included.
        num_envs: number of rows; more than one on a GPU only.
        options: keyword arguments of the task's constructor.

    Raises:
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
        ConfigurationError: for an unknown task.
    """
    _require_maniskill()
    import gymnasium
    from mani_skill.utils.registration import REGISTERED_ENVS

    register_own_tasks()
    if env_id not in REGISTERED_ENVS:
        known = sorted(REGISTERED_ENVS)
        sentence = f"ManiSkill knows no task {env_id!r}; known are {', '.join(known)}."
        raise ConfigurationError(with_suggestion(sentence, env_id, known))
    render = "gpu" if torch.cuda.is_available() else "cpu"
    options = {"render_backend": render, **options}
    return gymnasium.make(env_id, num_envs=num_envs, **options).unwrapped


def registered_limit(env_id: str) -> int | None:
    """Steps of an episode by which the task is registered, or None."""
    from mani_skill.utils.registration import REGISTERED_ENVS

    limit: int | None = REGISTERED_ENVS[env_id].max_episode_steps
    return limit


def _require_maniskill() -> None:
    """Import ManiSkill, on the driver unpacked in ``$MODEREG_VULKAN`` or ``.vulkan``, if any."""
    if not ({"VK_ICD_FILENAMES", "VK_DRIVER_FILES"} & set(os.environ)):
        activate(os.environ.get("MODEREG_VULKAN", ".vulkan"))
    try:
        import mani_skill.envs  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"ManiSkillEnv needs ManiSkill, which does not import ({error}); "
            "install it with `pip install modereg[maniskill]`."
        ) from error
    _require_device()


@cache
def _require_device() -> None:
    import sapien

    try:
        sapien.render.RenderSystem()
    except RuntimeError as error:
        raise MissingDeviceError(
            f"ManiSkill needs a Vulkan device, even for state observations, and SAPIEN says: "
            f"{error}; a software driver is set up without root by `{COMMAND}`."
        ) from error
