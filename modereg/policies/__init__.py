"""Generative policies: the contract, a flow in pure torch, any function as one, trained weights."""

from modereg.policies.chain import ChainRecorder, ChainSample, DenoisingChain, TunedWeights
from modereg.policies.denoising import Clipping, Denoising, NoisePath
from modereg.policies.flow import FlowPolicy
from modereg.policies.functions import as_generative_policy
from modereg.policies.generative import GenerativePolicy
from modereg.policies.low_rank import LowRank, low_rank_copy, merged
from modereg.policies.probing import freeze, probe_policy

__all__ = [
    "ChainRecorder",
    "ChainSample",
    "Clipping",
    "Denoising",
    "DenoisingChain",
    "FlowPolicy",
    "GenerativePolicy",
    "LowRank",
    "NoisePath",
    "TunedWeights",
    "as_generative_policy",
    "freeze",
    "low_rank_copy",
    "merged",
    "probe_policy",
]
