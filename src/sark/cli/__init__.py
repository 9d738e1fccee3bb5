"""The ``sark`` command."""

from sark.cli.main import main

__all__ = ["main"]
