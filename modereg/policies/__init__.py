"""Generative policies: the contract, a flow in pure torch, and any function as one."""

from modereg.policies.flow import FlowPolicy
from modereg.policies.functions import as_generative_policy
from modereg.policies.generative import GenerativePolicy
from modereg.policies.probing import freeze, probe_policy

__all__ = ["FlowPolicy", "GenerativePolicy", "as_generative_policy", "freeze", "probe_policy"]
