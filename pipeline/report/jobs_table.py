"""How the jobs of a grid ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.jobs import Outcome


def print_jobs(outcomes: Sequence[Outcome]) -> None:
    """One line for each job: what sets it apart, how it ended, where it lies, why it failed."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pipeline.report.output import standard_output
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
    console = standard_output(width_of_pipes=160)
    console.print(table)
    jobs = f"{len(outcomes)} job{'s' * (len(outcomes) != 1)}"
    console.print(f"{jobs}, {failed} failed" if failed else f"{jobs}, all done")
