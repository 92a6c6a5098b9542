"""Configurations of the recipes: plain dataclasses, YAML in and out, no torch.

Every field is an option of the command line (``modereg finetune --help``) and a line of the
``config.yaml`` that a run writes into its folder.
"""

from __future__ import annotations

from modereg.recipes.config.looking import (
    CompletionConfig,
    DemoConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    ModesConfig,
    ReportConfig,
    SweepConfig,
)
from modereg.recipes.config.parts import LogConfig, NoiseConfig, ProgressConfig, TaskConfig
from modereg.recipes.config.scratch import FromScratchConfig
from modereg.recipes.config.text import from_yaml, to_yaml
from modereg.recipes.config.training import (
    ClusterConfig,
    DiscoverConfig,
    FinetuneConfig,
    GuidedConfig,
    PretrainConfig,
    VariationalConfig,
)

__all__ = [
    "ClusterConfig",
    "CompletionConfig",
    "DemoConfig",
    "DiscoverConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "FromScratchConfig",
    "GuidedConfig",
    "InspectConfig",
    "LogConfig",
    "ModesConfig",
    "NoiseConfig",
    "PretrainConfig",
    "ProgressConfig",
    "ReportConfig",
    "SweepConfig",
    "TaskConfig",
    "VariationalConfig",
    "from_yaml",
    "to_yaml",
]
