"""How the jobs of a grid ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.jobs import Outcome


def print_jobs(outcomes: Sequence[Outcome]) -> None:
    """One line for each job: what sets it apart, how it ended, where it lies, why it failed."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.report.units import printable

    sets = [set(outcome.overrides) for outcome in outcomes]
    common = set.intersection(*sets) if len(sets) > 1 else set()
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("job", "overrides", "status", "folder"):
        table.add_column(title, overflow="fold")
    for number, outcome in enumerate(outcomes):
        own = "\n".join(text for text in outcome.overrides if text not in common)
        status = Text(outcome.status, "green" if outcome.status == "done" else "red")
        if outcome.why:
            status.append(f"\n{printable(outcome.why)}", "default")
        table.add_row(str(number), Text(own), status, Text(outcome.run_dir))
    failed = sum(outcome.status != "done" for outcome in outcomes)
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width)
    console.print(table)
    console.print(
        f"{len(outcomes)} jobs, {failed} failed" if failed else f"{len(outcomes)} jobs, all done"
    )
