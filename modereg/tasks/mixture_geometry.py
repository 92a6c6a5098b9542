"""The plane of the Gaussian mixture: four goals around the start."""

from __future__ import annotations

__all__ = ["GOALS", "GOAL_RADIUS", "GOAL_STD", "MODE_NAMES"]

GOALS = ((0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7))
"""x and y of the goals; the start is at the origin."""

GOAL_STD = 0.07
"""Standard deviation of each Gaussian, per axis: where the expert aims."""

GOAL_RADIUS = 0.2
"""An episode succeeds within this distance of a goal."""

MODE_NAMES = ("upper right", "upper left", "lower left", "lower right")
"""One name a goal."""
