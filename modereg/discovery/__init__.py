"""Discovering modes: the interface, the paper's way by RL, and ours by clustering and imitation."""

from modereg.discovery.base import ModeDiscoverer
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.clustering import ClusterCount, choose_num_clusters, kmeans
from modereg.discovery.imitation import NoiseImitation
from modereg.discovery.self_imitation import SelfImitation, annealed
from modereg.discovery.variational import VariationalModeDiscoverer

__all__ = [
    "ClusterCount",
    "ClusterModeDiscoverer",
    "ModeDiscoverer",
    "NoiseImitation",
    "SelfImitation",
    "VariationalModeDiscoverer",
    "annealed",
    "choose_num_clusters",
    "kmeans",
]
