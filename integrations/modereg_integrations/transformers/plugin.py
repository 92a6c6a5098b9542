"""What the entry point group ``modereg.policies`` names ``transformers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg_integrations.transformers.policy import PI0Policy

__all__ = ["PLUGIN", "TransformersPlugin"]


class TransformersPlugin:
    """Finds, loads and makes PI0 policies; imports transformers only when one is made."""

    def can_load(self, folder: str | Path) -> bool:
        """Whether a folder holds a PI0 model that transformers saved."""
        try:
            config = json.loads((Path(folder) / "config.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and config.get("model_type") == "pi0"

    def load(self, folder: str | Path, **options: Any) -> PI0Policy:
        """Load a policy; the options are those of ``PI0Policy.from_pretrained``."""
        from modereg_integrations.transformers.policy import PI0Policy

        return PI0Policy.from_pretrained(folder, **options)

    def untrained(self, **options: Any) -> PI0Policy:
        """Make a small fresh policy; the options are those of ``PI0Policy.untrained``."""
        from modereg_integrations.transformers.policy import PI0Policy

        return PI0Policy.untrained(**options)


PLUGIN = TransformersPlugin()
