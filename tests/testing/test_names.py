"""The names of the kit, which are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modereg import testing


def test_every_name_is_listed_and_others_are_refused() -> None:
    assert set(testing.__all__) <= set(dir(testing))
    assert testing.strategies.__name__ == "modereg.testing.strategies"
    with pytest.raises(AttributeError, match=r"'modereg.testing' has no attribute 'check_all'"):
        _ = testing.check_all


def test_without_hypothesis_all_but_the_strategies_are_there() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None
from modereg import testing
for name in testing.__all__:
    getattr(testing, name)
try:
    testing.strategies
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install hypothesis" in done.stdout, done.stderr
