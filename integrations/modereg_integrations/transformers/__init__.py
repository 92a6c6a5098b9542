"""Vision-language-action policies of the transformers library: PI0.

The public names are imported on first use, so that the plugin costs nothing until then; the
library itself is imported when a policy is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modereg_integrations.transformers.cloning import (
        clone,
        fit_statistics,
        flow_matching_loss,
    )
    from modereg_integrations.transformers.fresh import fresh_model
    from modereg_integrations.transformers.policy import PI0Policy
    from modereg_integrations.transformers.prefix import Prefix
    from modereg_integrations.transformers.statistics import Statistics

__all__ = [
    "PI0Policy",
    "Prefix",
    "Statistics",
    "clone",
    "fit_statistics",
    "flow_matching_loss",
    "fresh_model",
]

_HOMES = {
    "PI0Policy": "policy",
    "Prefix": "prefix",
    "Statistics": "statistics",
    "clone": "cloning",
    "fit_statistics": "cloning",
    "flow_matching_loss": "cloning",
    "fresh_model": "fresh",
}


def __getattr__(name: str) -> object:
    """Import a public name from the submodule that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
