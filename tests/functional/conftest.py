"""A profile for mutants: the examples of "quick", but no time is spent on shrinking failures."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("quick"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate),
)
