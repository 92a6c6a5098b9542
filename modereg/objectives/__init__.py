"""Losses in TorchRL's form: of the novelty, lean PPOs, and off-policy ones of noise and chunks."""

from modereg.objectives.chain import ChainPPOLoss
from modereg.objectives.dsrl import DSRLLoss
from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss
from modereg.objectives.replay import ChunkReplayLoss, ReplayLoss
from modereg.objectives.residual import ChunkResidualLoss
from modereg.objectives.sac import NoiseSACLoss

__all__ = [
    "ChainPPOLoss",
    "ChunkReplayLoss",
    "ChunkResidualLoss",
    "DSRLLoss",
    "DistillationLoss",
    "LeanPPOLoss",
    "NoiseSACLoss",
    "ReplayLoss",
]
