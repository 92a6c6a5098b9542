"""A base policy of another make for the Gaussian mixture."""

from __future__ import annotations

from modereg.policies import GenerativePolicy
from modereg.testing import TinyPolicy


def policy() -> GenerativePolicy:
    """Return chunks of 4 steps in the plane."""
    return TinyPolicy(2, scale=0.1)
