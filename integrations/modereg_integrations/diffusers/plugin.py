"""What the entry point group ``modereg.policies`` names ``diffusers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg_integrations.diffusers.policy import DiffusersPolicy

__all__ = ["PLUGIN", "DiffusersPlugin"]


class DiffusersPlugin:
    """Finds, loads and makes policies of diffusers; imports it only when one is made."""

    def can_load(self, folder: str | Path) -> bool:
        """Whether a folder was written by ``DiffusersPolicy.save_pretrained``."""
        try:
            index = json.loads((Path(folder) / "model_index.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(index, dict) and index.get("_class_name") == "DiffusersPolicy"

    def load(self, folder: str | Path, **options: Any) -> DiffusersPolicy:
        """Load a policy; the options are those of ``DiffusersPolicy.from_pretrained``."""
        from modereg_integrations.diffusers import DiffusersPolicy

        return DiffusersPolicy.from_pretrained(folder, **options)

    def untrained(self, **options: Any) -> DiffusersPolicy:
        """Make a fresh policy; the options are those of ``DiffusersPolicy.untrained``."""
        from modereg_integrations.diffusers import DiffusersPolicy

        return DiffusersPolicy.untrained(**options)


PLUGIN = DiffusersPlugin()
