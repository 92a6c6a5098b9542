"""How an adapter's policies are found in folders, loaded and made: its library only on use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg.policies import GenerativePolicy

__all__ = ["FolderPlugin", "MakingPlugin"]


@dataclass(frozen=True)
class FolderPlugin:
    """What the entry point group ``modereg.policies`` names an adapter.

    Attributes:
        policy: its class, as ``module:Class``, imported when a policy is loaded or made.
        file: JSON in a folder that says whose policy it is.
        recognises: whether what is in that file is of this adapter.
    """

    policy: str
    file: str
    recognises: Callable[[dict[str, Any]], bool]

    def can_load(self, folder: str | Path) -> bool:
        """Whether a folder holds a policy of this adapter."""
        try:
            found = json.loads((Path(folder) / self.file).read_text())
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and self.recognises(found)

    def load(self, folder: str | Path, **options: Any) -> GenerativePolicy:
        """Load a policy; the options are those of its class's ``from_pretrained``."""
        policy: GenerativePolicy = self._class().from_pretrained(folder, **options)
        return policy

    def _class(self) -> Any:
        module, _, name = self.policy.partition(":")
        return getattr(import_module(module), name)


class MakingPlugin(FolderPlugin):
    """One that also makes fresh policies to clone."""

    def untrained(self, **options: Any) -> GenerativePolicy:
        """Make a fresh policy; the options are those of its class's ``untrained``."""
        policy: GenerativePolicy = self._class().untrained(**options)
        return policy
