"""Policies of LeRobot: DiffusionPolicy, SmolVLA and PI0.

LeRobot wants an environment of its own; the tutorial "My LeRobot policy" makes one. The public
names are imported on first use, and the library itself when a policy is made.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
