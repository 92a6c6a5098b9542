"""A command of modereg that ends with the process that started it, however that ended.

``python -m modereg.child PARENT COMMAND ...``
"""

from __future__ import annotations

import sys
import threading

from modereg import cli
from modereg.commands.workers import end_with

__all__ = ["main"]


def main() -> int:
    """Run the command."""
    parent, *arguments = sys.argv[1:]
    sys.argv[0] = cli.__file__  # so that what it prints names a command that can be typed
    threading.Thread(target=end_with, args=(int(parent),), daemon=True).start()
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
