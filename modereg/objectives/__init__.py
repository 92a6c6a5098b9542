"""Losses in TorchRL's form: of the novelty, and a lean PPO."""

from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss

__all__ = ["DistillationLoss", "LeanPPOLoss"]
