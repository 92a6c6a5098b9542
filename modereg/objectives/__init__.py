"""Losses in TorchRL's form: of the novelty, a lean PPO, and off-policy ones of noise and chunks."""

from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss
from modereg.objectives.replay import ReplayLoss
from modereg.objectives.sac import NoiseSACLoss

__all__ = ["DistillationLoss", "LeanPPOLoss", "NoiseSACLoss", "ReplayLoss"]
