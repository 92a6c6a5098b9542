"""What the entry point group ``modereg.policies`` names ``lerobot``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg_integrations.lerobot.policy import LeRobotPolicy

__all__ = ["PLUGIN", "LeRobotPlugin"]


class LeRobotPlugin:
    """Finds and loads policies of LeRobot; imports it only when one is loaded."""

    def can_load(self, folder: str | Path) -> bool:
        """Whether a folder holds a policy that LeRobot saved, of whatever kind."""
        try:
            config = json.loads((Path(folder) / "config.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and {"type", "input_features", "output_features"} <= {
            *config
        }

    def load(self, folder: str | Path, **options: Any) -> LeRobotPolicy:
        """Load a policy; the options are those of ``LeRobotPolicy.from_pretrained``."""
        from modereg_integrations.lerobot.policy import LeRobotPolicy

        return LeRobotPolicy.from_pretrained(folder, **options)


PLUGIN = LeRobotPlugin()
