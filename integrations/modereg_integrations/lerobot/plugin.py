"""What the entry point group ``modereg.policies`` names ``lerobot``."""

from __future__ import annotations

from modereg_integrations.plugin import FolderPlugin

__all__ = ["PLUGIN"]

PLUGIN = FolderPlugin(
    "modereg_integrations.lerobot.policy:LeRobotPolicy",
    "config.json",
    lambda config: {"type", "input_features", "output_features"} <= {*config},
)
