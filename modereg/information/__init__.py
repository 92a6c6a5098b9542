"""Estimates of mutual information and entropy from samples.

Of these only :func:`~modereg.information.neighbours.particle_entropy` rewards each state; the
estimators of I(Z; S) that do are in :mod:`modereg.estimators`.
"""

from modereg.information.neighbours import particle_entropy

__all__ = ["particle_entropy"]
