"""Losses in TorchRL's form: of the novelty, lean PPOs, matching, and off-policy ones."""

from modereg.objectives.chain import ChainPPOLoss
from modereg.objectives.dsrl import DSRLLoss
from modereg.objectives.matching import GroupMatchingLoss
from modereg.objectives.novelty import DistillationLoss
from modereg.objectives.ppo import LeanPPOLoss
from modereg.objectives.qf3 import QF3Loss
from modereg.objectives.replay import ChunkReplayLoss, ReplayLoss
from modereg.objectives.residual import ChunkResidualLoss
from modereg.objectives.sac import NoiseSACLoss
from modereg.objectives.step_residual import StepResidualLoss

__all__ = [
    "ChainPPOLoss",
    "ChunkReplayLoss",
    "ChunkResidualLoss",
    "DSRLLoss",
    "DistillationLoss",
    "GroupMatchingLoss",
    "LeanPPOLoss",
    "NoiseSACLoss",
    "QF3Loss",
    "ReplayLoss",
    "StepResidualLoss",
]
