"""Losses in TorchRL's form: of the classifier of codes, and a lean PPO."""

from modereg.objectives.inference import InferenceLoss
from modereg.objectives.ppo import LeanPPOLoss

__all__ = ["InferenceLoss", "LeanPPOLoss"]
