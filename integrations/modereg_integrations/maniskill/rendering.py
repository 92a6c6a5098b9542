"""Pictures of a ManiSkill simulation by the camera that the task has for people to look through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modereg.errors import ConfigurationError

__all__ = ["camera_options", "render_rows"]


def camera_options(options: Mapping[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """A task's constructor's options, with the size of its pictures.

    Args:
        options: keyword arguments of the task's constructor.
        size: height and width in pixels; None: as the task has them.

    Raises:
        ConfigurationError: if the size is not positive.
    """
    if size is None:
        return dict(options)
    height, width = size
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

    Args:
        sim: an unwrapped ManiSkill environment; several cameras' pictures come side by side.

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
