"""Generative policies: the contract, a flow in pure torch, any function as one, trained weights."""

from modereg.policies.chain import ChainSample, DenoisingChain, TunedWeights
from modereg.policies.code_shifts import CodeShifts
from modereg.policies.denoising import Clipping, Denoising, NoisePath
from modereg.policies.embedding import embed_codes
from modereg.policies.flow import FlowPolicy
from modereg.policies.functions import as_generative_policy
from modereg.policies.generative import GenerativePolicy
from modereg.policies.low_rank import LowRank, low_rank_copy, merged
from modereg.policies.probing import freeze, probe_policy
from modereg.policies.recorder import ChainRecorder

__all__ = [
    "ChainRecorder",
    "ChainSample",
    "Clipping",
    "CodeShifts",
    "Denoising",
    "DenoisingChain",
    "FlowPolicy",
    "GenerativePolicy",
    "LowRank",
    "NoisePath",
    "TunedWeights",
    "as_generative_policy",
    "embed_codes",
    "freeze",
    "low_rank_copy",
    "merged",
    "probe_policy",
]
