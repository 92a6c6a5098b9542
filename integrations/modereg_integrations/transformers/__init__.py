"""Vision-language-action policies of the transformers library: PI0.

The public names are imported on first use, so that the plugin costs nothing until then; the
library itself is imported when a policy is made.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
