"""Where results are printed."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH_OF_PIPES = 120


def standard_output(width_of_pipes: int = WIDTH_OF_PIPES) -> Console:
    """Standard output, for tables: as wide as the terminal, or wide enough for paths in a pipe."""
    width = None if sys.stdout.isatty() else width_of_pipes
    return _Console(highlight=False, width=width)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line; rich would end the process as if a run had failed."""
        raise BrokenPipeError
