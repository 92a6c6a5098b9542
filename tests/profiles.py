"""How many examples hypothesis tries, and where those that failed once are kept.

``quick``, the default, is what CI runs: 25 examples that are the same at every run, after those in
``tests/regressions``. ``deep`` (``make test-deep``) tries 10 000 fresh ones and leaves what fails
there, one small file for each, to be committed with the fix; ``quick`` then replays it for good.

Hypothesis refuses ``derandomize`` beside a database, and both its decorator ``seed`` and the seed
of its command line turn the database off. So what the decorator sets is set here without it; that
it is still read, and the database too, is what ``test_profiles`` checks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import hypothesis
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase, ReadOnlyDatabase

__all__ = ["Regressions", "fix_seeds", "use_profiles"]

_DERIVED = (b".secondary", b".pareto")
"""Ends of the keys under which hypothesis keeps what is not a smallest failing example."""


class Regressions(DirectoryBasedExampleDatabase):
    """A database that never loses what it held at the start: a bug may come back.

    Hypothesis saves every failing example on the way to the smallest, and deletes the others. It
    also deletes those that no longer fail; here only what this process has saved is deleted.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._saved: set[tuple[bytes, bytes]] = set()

    def save(self, key: bytes, value: bytes) -> None:
        """Keep a failing example."""
        if key.endswith(_DERIVED) or value in set(self.fetch(key)):
            return
        self._saved.add((key, value))
        super().save(key, value)

    def delete(self, key: bytes, value: bytes) -> None:
        """Forget an example that this process has saved."""
        if (key, value) in self._saved:
            self._saved.discard((key, value))
            super().delete(key, value)

    def move(self, src: bytes, dest: bytes, value: bytes) -> None:
        """Forget an example for another one, which is kept only where it is a smallest one."""
        self.delete(src, value)
        self.save(dest, value)


def use_profiles(regressions: Path) -> None:
    """Register the profiles, and load the one that ``HYPOTHESIS_PROFILE`` names.

    Args:
        regressions: folder of the examples that failed once.
    """
    kept = Regressions(regressions)
    register = hypothesis.settings.register_profile
    register("quick", deadline=None, max_examples=25, database=ReadOnlyDatabase(kept))
    register("deep", deadline=None, max_examples=10_000, database=kept)
    hypothesis.settings.load_profile(_profile())


def fix_seeds(items: Iterable[pytest.Item]) -> None:
    """Give each property a seed of its own, so that all but a deep run draw the same examples."""
    if _profile() == "deep":
        return
    for item in items:
        test = getattr(item, "obj", None)
        if hypothesis.is_hypothesis_test(test):
            getattr(test, "__func__", test)._hypothesis_internal_use_seed = 0


def _profile() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE", "quick")
