"""The ``sark`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command.

    It is imported here, which takes a while, so that Ctrl-C during that while is no traceback.
    """
    try:
        from sark.cli.app import run

        run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
