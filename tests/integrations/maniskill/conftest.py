from __future__ import annotations

import pytest

WARNINGS = (
    # ManiSkill 3.0 under numpy 2.4, once a step
    "ignore:Conversion of an array with ndim > 0 to a scalar is deprecated:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integrations/maniskill" in item.path.as_posix():
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
