"""The command ``modereg`` and ``python -m modereg``: the command line, or what it lacks."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_NEEDED = {"tyro": "tyro", "pyyaml": "yaml", "tqdm": "tqdm"}


def main() -> int:
    """Run a command of :mod:`modereg.cli`, and return its exit status."""
    missing = [name for name, module in _NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.exit(
            f"modereg: the command line needs {', '.join(missing)}, which this Python lacks; "
            "install it with 'pip install modereg[cli]'"
        )
    from modereg.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
