"""Estimators that reward each state for what it says about the code, behind one interface.

The convention here keeps the prior: a variational estimator pays log q(z | s) - log p(z), so a q
that knows nothing pays 0. Estimates of information from samples alone, for evaluation, are in
:mod:`modereg.information`.
"""

from modereg.estimators.base import RewardEstimator, Source, check_support
from modereg.estimators.categorical import CategoricalMI
from modereg.estimators.continuous import GaussianMI, VonMisesFisherMI
from modereg.estimators.contrastive import ContrastiveMI
from modereg.estimators.kinds import ESTIMATOR_GROUP, KINDS, estimator_class, estimator_kind
from modereg.estimators.network import NetworkEstimator
from modereg.estimators.wasserstein import LSD, METRA, WassersteinDependency

__all__ = [
    "ESTIMATOR_GROUP",
    "KINDS",
    "LSD",
    "METRA",
    "CategoricalMI",
    "ContrastiveMI",
    "GaussianMI",
    "NetworkEstimator",
    "RewardEstimator",
    "Source",
    "VonMisesFisherMI",
    "WassersteinDependency",
    "check_support",
    "estimator_class",
    "estimator_kind",
]
