"""What the entry point group ``modereg.policies`` names ``diffusers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modereg_integrations.plugin import MakingPlugin

if TYPE_CHECKING:
    from modereg.policies import GenerativePolicy

__all__ = ["PLUGIN", "DiffusersPlugin"]


class DiffusersPlugin(MakingPlugin):
    """One whose policies can be had without one of their observations."""

    def without(self, policy: Any, key: Any) -> GenerativePolicy:
        """Return a policy as it is where an observation is zeros; see :mod:`.narrowing`."""
        from modereg_integrations.diffusers.narrowing import without_observation

        return without_observation(policy, key)


PLUGIN = DiffusersPlugin(
    "modereg_integrations.diffusers.policy:DiffusersPolicy",
    "model_index.json",
    lambda index: index.get("_class_name") == "DiffusersPolicy",
)
