"""What the entry point group ``modereg.policies`` names ``transformers``."""

from __future__ import annotations

from modereg_integrations.plugin import MakingPlugin

__all__ = ["PLUGIN"]

PLUGIN = MakingPlugin(
    "modereg_integrations.transformers.policy:PI0Policy",
    "config.json",
    lambda config: config.get("model_type") == "pi0",
)
