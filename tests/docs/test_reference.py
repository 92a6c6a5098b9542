"""The built reference has every public name; ``make docs`` builds it, and runs this file."""

from __future__ import annotations

import importlib
import os
import pkgutil
import zlib
from pathlib import Path
from typing import Any

import pytest

import modereg
import modereg_integrations

BUILT = os.environ.get("MODEREG_BUILT_DOCS")

pytestmark = pytest.mark.skipif(BUILT is None, reason="make docs runs this on what it has built")


def documented() -> set[str]:
    """Return the names in the inventory of the site, which has four lines of header."""
    data = Path(BUILT, "objects.inv").read_bytes()
    packed = data.split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}


def public() -> dict[str, Any]:
    """Return every name of every ``__all__`` of a public module, with its object."""
    names = {}
    for package in (modereg, modereg_integrations):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for path in [package.__name__, *(module.name for module in found)]:
            if "._" not in path:
                module = importlib.import_module(path)
                exported = getattr(module, "__all__", ())
                names |= {f"{path}.{name}": getattr(module, name) for name in exported}
    return names


def test_every_public_name_is_documented_there_or_with_the_package_that_exports_it() -> None:
    there, names = documented(), public()
    known = {id(value) for name, value in names.items() if name in there}
    missing = [
        name for name, value in names.items() if name not in there and id(value) not in known
    ]
    assert len(names) > 200
    assert not missing


def test_what_the_root_exports_is_there_by_that_name() -> None:
    assert {f"modereg.{name}" for name in modereg.__all__} <= documented()


def test_every_page_was_built() -> None:
    pages = [path.stem for path in Path(BUILT).rglob("*.html")]
    for page in ("index", "concepts", "estimators", "own_loop", "limits", "coming_from"):
        assert page in pages
