"""Opening a ManiSkill simulation, for which a Vulkan device is needed, and its pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError, MissingDependencyError, MissingDeviceError
from modereg.suggestions import with_suggestion
from modereg_integrations.maniskill.vulkan import COMMAND, activate

__all__ = ["camera_options", "make_simulation", "registered_limit", "render_rows"]


def make_simulation(env_id: str, num_envs: int, options: Mapping[str, Any]) -> Any:
    """One ManiSkill simulation of ``num_envs`` rows, without its time-limit wrapper.

    Raises:
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
        ConfigurationError: for an unknown task.
    """
    _require_maniskill()
    import gymnasium
    from mani_skill.utils.registration import REGISTERED_ENVS

    import_module("modereg_integrations.maniskill.tabletop.scene")  # which registers our tasks
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


def camera_options(
    options: Mapping[str, Any], size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """A task's constructor's options, with the size of its pictures.

    Raises:
        ConfigurationError: if the size is not positive.
    """
    if size is None:
        return dict(options)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ConfigurationError(
            f"render_size is the height and width of a picture in pixels, got {size}."
        )
    cameras = dict(options.get("human_render_camera_configs", {}))
    return {
        **options,
        "human_render_camera_configs": {**cameras, "height": height, "width": width},
    }


def render_rows(sim: Any) -> Tensor:
    """Pictures ``[rows, H, W, 3]`` uint8 on the CPU of a simulation as it is; nothing moves.

    Raises:
        ConfigurationError: if the task has no camera to render by.
    """
    pictures = sim.render_rgb_array()
    if pictures is None:
        raise ConfigurationError(
            f"{type(sim).__name__} has no human render camera: render_frames needs one; "
            "give the task _default_human_render_camera_configs."
        )
    frames: Tensor = pictures.to("cpu", torch.uint8, copy=True)
    return frames


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
