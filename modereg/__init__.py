"""Fine-tune a pretrained generative policy by reinforcement learning, and keep its behaviours.

The names below are imported when they are first used, so that ``import modereg`` and the command
line start at once; the stub ``__init__.pyi`` says where they are from. So are the submodules, in
which the rest lives: ``modereg.transforms``, ``modereg.discovery``, ``modereg.estimators``,
``modereg.objectives``, ``modereg.metrics``, ``modereg.testing``.
"""

from modereg.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
