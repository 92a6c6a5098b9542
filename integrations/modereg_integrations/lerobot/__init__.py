"""Policies of LeRobot: DiffusionPolicy, SmolVLA and PI0.

Needs the extra ``lerobot`` (``pip install modereg[lerobot]``) and Python 3.12. The public names are
imported on first use, and the library itself when a policy is made.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
