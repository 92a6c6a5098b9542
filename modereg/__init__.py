"""Fine-tune a pretrained generative policy by reinforcement learning, and keep its behaviours.

The names below are imported when they are first used, so that ``import modereg`` and the command
line start at once. The rest lives in the submodules: ``modereg.transforms``, ``modereg.discovery``,
``modereg.estimators``, ``modereg.objectives``, ``modereg.metrics``, ``modereg.testing``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modereg.checkpoints import load_adapter, save_adapter
    from modereg.discovery import (
        ClusterModeDiscoverer,
        ModeDiscoverer,
        VariationalModeDiscoverer,
        discover_modes,
    )
    from modereg.policies import FlowPolicy, GenerativePolicy, as_generative_policy
    from modereg.steering import SteeringPolicy
    from modereg.transforms import LatentConditioner, MIReward
    from modereg.wrapping import wrap

__version__ = "0.1.0"

__all__ = [
    "ClusterModeDiscoverer",
    "FlowPolicy",
    "GenerativePolicy",
    "LatentConditioner",
    "MIReward",
    "ModeDiscoverer",
    "SteeringPolicy",
    "VariationalModeDiscoverer",
    "as_generative_policy",
    "discover_modes",
    "load_adapter",
    "save_adapter",
    "wrap",
]

_HOMES = {
    "ClusterModeDiscoverer": "discovery",
    "FlowPolicy": "policies",
    "GenerativePolicy": "policies",
    "LatentConditioner": "transforms",
    "MIReward": "transforms",
    "ModeDiscoverer": "discovery",
    "SteeringPolicy": "steering",
    "VariationalModeDiscoverer": "discovery",
    "as_generative_policy": "policies",
    "discover_modes": "discovery",
    "load_adapter": "checkpoints",
    "save_adapter": "checkpoints",
    "wrap": "wrapping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modereg' has no attribute {name!r}")
    return getattr(import_module(f"modereg.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
