"""Where results are printed."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH_OF_PIPES = 120


def standard_output() -> Console:
    """Standard output, for tables: as wide as the terminal, or wide enough for paths in a pipe."""
    width = None if sys.stdout.isatty() else WIDTH_OF_PIPES
    return Console(highlight=False, width=width)
