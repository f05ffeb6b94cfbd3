"""What was found in a folder, on the terminal: faults first, then what held, then what was not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pipeline.report.output import standard_output

if TYPE_CHECKING:
    from pipeline.proof.findings import Findings

_SHOWN = 20
"""Faults that are printed; `--json` has all."""


def print_findings(
    found: Findings, holds: str, *, quiet: bool = False, console: Console | None = None
) -> None:
    """The findings, and the verdict in the last line: `holds` where nothing is wrong."""
    out = console or standard_output()
    for fault in found.faults[:_SHOWN]:
        out.print(Text("wrong    ", "red"), Text(f"{fault.where}: {fault.what}"), sep="")
    if len(found.faults) > _SHOWN:
        out.print(Text(f"         and {len(found.faults) - _SHOWN} more (--json prints all)"))
    if quiet:
        return
    for text in found.checked:
        out.print(Text("checked  ", "green"), Text(text), sep="")
    for text in found.changed:
        out.print(Text("changed  ", "yellow"), Text(text), sep="")
    for text in found.skipped:
        out.print(Text("not done ", "yellow"), Text(text), sep="")
    wrong = f"{len(found.faults)} thing{'s' * (len(found.faults) != 1)} wrong"
    out.print(Text(wrong if found.faults else holds, style="bold"))
