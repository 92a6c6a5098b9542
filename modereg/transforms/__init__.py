"""TorchRL transforms that make an environment steerable: one transform a file."""

from modereg.transforms.action_chunk import ActionChunk
from modereg.transforms.history import History
from modereg.transforms.latent_conditioner import LatentConditioner
from modereg.transforms.mi_reward import MIReward
from modereg.transforms.noise_action import NoiseAction
from modereg.transforms.novelty import NoveltyReward, ParticleEntropyReward
from modereg.transforms.observation_stack import ObservationStack
from modereg.transforms.time_limit import TimeLimit

__all__ = [
    "ActionChunk",
    "History",
    "LatentConditioner",
    "MIReward",
    "NoiseAction",
    "NoveltyReward",
    "ObservationStack",
    "ParticleEntropyReward",
    "TimeLimit",
]
