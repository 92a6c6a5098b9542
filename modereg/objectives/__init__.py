"""Losses in TorchRL's form: of the novelty, a lean PPO, and soft actor-critic on the noise."""

from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss
from modereg.objectives.sac import NoiseSACLoss

__all__ = ["DistillationLoss", "LeanPPOLoss", "NoiseSACLoss"]
