"""How the jobs of a grid ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.jobs import Outcome


def print_jobs(outcomes: Sequence[Outcome]) -> None:
    """One line for each job: its overrides, how it ended, where it lies, and why it failed."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.report.units import printable

    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("job", "overrides", "status", "folder"):
        table.add_column(title, overflow="fold")
    for number, outcome in enumerate(outcomes):
        status = Text(outcome.status, "green" if outcome.status == "done" else "red")
        if outcome.why:
            status.append(f"\n{printable(outcome.why)}", "default")
        table.add_row(str(number), Text("\n".join(outcome.overrides)), status, Text(outcome.run_dir))
    failed = sum(outcome.status != "done" for outcome in outcomes)
    console = Console()
    console.print(table)
    console.print(f"{len(outcomes)} jobs, {failed} failed" if failed else f"{len(outcomes)} jobs, all done")
