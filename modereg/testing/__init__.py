"""The testing kit: contract checks, and tiny environments and policies to run them on.

An adapter of a third party runs the same checks as modereg's own tests, by importing them from
here or as the fixtures of the pytest plug-in :mod:`modereg.testing.plugin`. The names are imported
when they are first used, so that the plug-in costs a run of pytest nothing that does not use it.
Hypothesis strategies for tests of one's own are in :mod:`modereg.testing.strategies`.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
