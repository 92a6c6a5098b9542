"""Demonstrations of Avoid whose modes are very unequal: shares of .004 to .16."""

from __future__ import annotations

import itertools
import math

__all__ = ["SKEWED"]

ROWS = [(0.3, 0.7), (0.5, 0.35, 0.15), (0.45, 0.3, 0.17, 0.08)]
"""Shares of the gaps of each row."""

SKEWED = tuple(math.prod(shares) for shares in itertools.product(*ROWS))
"""Shares of the 24 modes."""
