"""How a run is shown on the terminal while it goes on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pipeline.report.plain import PlainConsole, QuietConsole

if TYPE_CHECKING:
    from pipeline.run import Console


def make_console(quiet: bool = False) -> Console:
    """The console that suits standard error: moving on a terminal, plain lines elsewhere."""
    if quiet:
        return QuietConsole()
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return PlainConsole()
    from pipeline.report.live import LiveConsole

    return LiveConsole()
