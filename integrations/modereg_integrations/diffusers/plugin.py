"""What the entry point group ``modereg.policies`` names ``diffusers``."""

from __future__ import annotations

from modereg_integrations.plugin import MakingPlugin

__all__ = ["PLUGIN"]

PLUGIN = MakingPlugin(
    "modereg_integrations.diffusers.policy:DiffusersPolicy",
    "model_index.json",
    lambda index: index.get("_class_name") == "DiffusersPolicy",
)
