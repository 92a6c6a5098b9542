"""Estimates of mutual information and entropy from samples.

Of these only :func:`~modereg.information.neighbours.particle_entropy` rewards each state; the
estimators of I(Z; S) that do are in :mod:`modereg.estimators`.
"""

from modereg.information.critics import (
    InformationEstimate,
    SeparableCritic,
    estimate_information,
)
from modereg.information.neighbours import (
    kozachenko_leonenko_entropy,
    ksg_information,
    particle_entropy,
    ross_information,
)

__all__ = [
    "InformationEstimate",
    "SeparableCritic",
    "estimate_information",
    "kozachenko_leonenko_entropy",
    "ksg_information",
    "particle_entropy",
    "ross_information",
]
