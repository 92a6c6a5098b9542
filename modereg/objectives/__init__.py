"""Losses in TorchRL's form: of the classifier of codes, of the novelty, and a lean PPO."""

from modereg.objectives.inference import InferenceLoss
from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss

__all__ = ["DistillationLoss", "InferenceLoss", "LeanPPOLoss"]
