"""A failing example that a deep run has saved is replayed by every quick run, and never lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.profiles import Regressions

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.profiles import fix_seeds, use_profiles
use_profiles(Path(__file__).parent / "regressions")
def pytest_collection_modifyitems(items):
    fix_seeds(items)
"""

PROPERTY = """
from pathlib import Path
from hypothesis import given, strategies as st
from library import right

@given(st.integers(0, 10**9))
def test_rare(number):
    with Path("seen").open("a") as seen:
        seen.write(f"{number} ")
    assert right(number)
"""

WRONG = """
from hashlib import sha256

def right(number):
    first, second, *_ = sha256(str(number).encode()).digest()
    return first or second > 99  # wrong for one number in 650
"""


def failed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, profile: str) -> int:
    """Run the property, return how many failed and leave the numbers it was given in ``seen``."""
    monkeypatch.setenv("HYPOTHESIS_PROFILE", profile)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a few times faster
    (pytester.path / "seen").unlink(missing_ok=True)
    result = pytester.runpytest_subprocess("-q", "-p", "_hypothesis_pytestplugin")
    return result.parseoutcomes().get("failed", 0)


def numbers(pytester: pytest.Pytester) -> list[str]:
    return (pytester.path / "seen").read_text().split()


def kept(pytester: pytest.Pytester) -> set[Path]:
    return {path for path in (pytester.path / "regressions").rglob("*") if path.is_file()}


def test_a_saved_failure_is_replayed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(PROPERTY)
    library = pytester.makepyfile(library=WRONG)
    run = partial(failed, pytester, monkeypatch)
    assert run("quick") == 0
    first = numbers(pytester)
    assert run("quick") == 0
    assert numbers(pytester) == first, "a quick run draws the same examples as the last one"
    assert not kept(pytester), "a quick run writes nothing"

    assert run("deep") == 1
    assert kept(pytester)
    assert run("quick") == 1, "the quick run finds by replaying what it did not find before"

    saved = kept(pytester)
    library.write_text(WRONG.replace("second > 99", "second >= 0"))
    assert run("quick") == 0
    assert numbers(pytester)[0] not in first, "the example is tried before the others"
    assert saved <= kept(pytester), "nothing that failed once is lost"


def test_what_was_there_is_not_deleted(tmp_path: Path) -> None:
    Regressions(tmp_path).save(b"key", b"old")
    database = Regressions(tmp_path)
    for value in (b"old", b"larger", b"smallest"):
        database.save(b"key", value)
    database.delete(b"key", b"old")
    database.move(b"key", b"key.secondary", b"larger")
    assert set(Regressions(tmp_path).fetch(b"key")) == {b"old", b"smallest"}
    assert not set(database.fetch(b"key.secondary"))
