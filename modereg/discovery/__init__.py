"""Discovering modes: the interface, the paper's way by RL, and ours by clustering and imitation."""

from modereg.discovery.base import ModeDiscoverer
from modereg.discovery.best_of import BestOf
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.clustering import ClusterCount, choose_num_clusters, kmeans
from modereg.discovery.guided import GuidedDiscovery, decision_entries
from modereg.discovery.imitation import NoiseImitation
from modereg.discovery.outcome import OutcomeModel
from modereg.discovery.reach import Reach, predict_reach
from modereg.discovery.relevance import decided_shares, undecided_dims
from modereg.discovery.self_imitation import SelfImitation
from modereg.discovery.stage1 import annealed, discover_modes
from modereg.discovery.variational import VariationalModeDiscoverer

__all__ = [
    "BestOf",
    "ClusterCount",
    "ClusterModeDiscoverer",
    "GuidedDiscovery",
    "ModeDiscoverer",
    "NoiseImitation",
    "OutcomeModel",
    "Reach",
    "SelfImitation",
    "VariationalModeDiscoverer",
    "annealed",
    "choose_num_clusters",
    "decided_shares",
    "decision_entries",
    "discover_modes",
    "kmeans",
    "predict_reach",
    "undecided_dims",
]
