"""Numbers of configurations, checked: what each must be, in one sentence."""

from __future__ import annotations

import math
from typing import Any

from modereg.errors import ConfigurationError

__all__ = ["check_numbers"]


def check_numbers(config: Any, **rules: tuple[str, ...]) -> None:
    """Check fields of a configuration; None passes everywhere.

    Args:
        config: whose fields.
        **rules: names of fields by what they must be: ``count`` (a number of at least 1),
            ``natural`` (of at least 0), ``positive`` (above 0 and finite), ``nonnegative`` (at
            least 0 and finite), ``share`` (in [0, 1]).

    Raises:
        ConfigurationError: for the first field that is not.
    """
    for rule, names in rules.items():
        test, wanted = _RULES[rule]
        for name in names:
            value = getattr(config, name)
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None and not test(part):
                    raise ConfigurationError(f"expected {name} {wanted}, got {part}")


_RULES = {
    "count": (lambda value: value >= 1, "of at least 1"),
    "natural": (lambda value: value >= 0, "of at least 0"),
    "positive": (lambda value: value > 0 and math.isfinite(value), "above 0 and finite"),
    "nonnegative": (lambda value: value >= 0 and math.isfinite(value), "of at least 0 and finite"),
    "share": (lambda value: 0 <= value <= 1, "in [0, 1]"),
}
