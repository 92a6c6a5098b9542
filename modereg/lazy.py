"""What is imported on first use: the names of a package, and optional libraries."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from modereg.errors import MissingDependencyError

__all__ = ["attach", "declared", "optional"]

Names = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def attach(package: str, file: str) -> Names:
    """Give a package the names that its stub imports, each imported when it is first used.

    The stub ``__init__.pyi`` is the one declaration: type checkers read it, and so does this.
    ``from package.home import Name as Name`` gives a name, ``from package import home as home`` a
    submodule. A name is kept in the package once it is there.

    Args:
        package: ``__name__`` of the package.
        file: ``__file__`` of the package.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__``, which leaves the submodules out.
    """
    homes = declared(Path(file).with_suffix(".pyi"))
    names = sorted((name for name, home in homes.items() if home != package), key=_order)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return import_module(f"{package}.{name}")
        value = getattr(import_module(homes[name]), name)
        vars(import_module(package))[name] = value
        return value

    return get, lambda: sorted({*vars(import_module(package)), *homes}), names


def declared(stub: Path) -> dict[str, str]:
    """Return the module of each name that a stub exports, by ``import name as name``."""
    nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {
        part.name: str(node.module)
        for node in nodes
        for part in node.names
        if part.asname == part.name
    }


def _order(name: str) -> tuple[int, str]:
    """Sort as ruff sorts ``__all__``: CONSTANTS, Classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def optional(module: str, user: str, install: str) -> Any:
    """Import a module of a library that modereg does not always need.

    Args:
        module: for example ``matplotlib.figure``.
        user: what needs it, at the beginning of a sentence.
        install: what ``pip install`` is to be given.

    Raises:
        MissingDependencyError: if the library is not installed.
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise MissingDependencyError(
            f"{user} needs {library}, which is not installed; install it with "
            f"'pip install {install}'"
        ) from error
