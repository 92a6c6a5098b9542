"""Policies made of a denoiser and a scheduler of the diffusers library.

The public names are imported on first use, so that the plugin costs nothing until then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modereg.errors import MissingDependencyError

if TYPE_CHECKING:
    from modereg_integrations.diffusers.denoiser import MLPDenoiser
    from modereg_integrations.diffusers.normalizer import Normalizer
    from modereg_integrations.diffusers.policy import DiffusersPolicy
    from modereg_integrations.diffusers.saving import register_denoiser

__all__ = ["DiffusersPolicy", "MLPDenoiser", "Normalizer", "register_denoiser"]

_HOMES = {
    "DiffusersPolicy": "policy",
    "MLPDenoiser": "denoiser",
    "Normalizer": "normalizer",
    "register_denoiser": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise MissingDependencyError(
            f"{name} needs the diffusers library, which is not installed; install it with "
            "'pip install diffusers'"
        ) from error
