"""Policies made of a denoiser and a scheduler of the diffusers library.

The public names are imported on first use, so that the plugin costs nothing until then.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
