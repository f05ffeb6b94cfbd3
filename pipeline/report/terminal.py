"""The terminal's side of Mergeline: how a run is shown while it goes on and when it is over."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pipeline.report.plain import PlainConsole, QuietConsole
from pipeline.report.plan_table import print_plan
from pipeline.report.run_table import print_end, print_run

if TYPE_CHECKING:
    from pipeline.run import Console

__all__ = ["make_console", "print_end", "print_plan", "print_run"]


def make_console(quiet: bool = False) -> Console:
    """The console that suits standard error: moving on a terminal, plain lines elsewhere."""
    if quiet:
        return QuietConsole()
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return PlainConsole()
    from pipeline.report.live import LiveConsole

    return LiveConsole()
