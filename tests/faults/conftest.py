"""Prints the tables of broken and of right merges below the tests' own summary."""

from __future__ import annotations

import pytest

from tests.faults.library import FAULTS
from tests.faults.table import fault_table, right_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With xdist too: what tests record comes with their reports."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    kept = [one for report in reports if report.when == "call" for one in report.user_properties]
    faults, right = (
        {value[0]: value[1:] for name, value in kept if name == kind} for kind in ("fault", "right")
    )
    if faults:
        terminalreporter.section("broken merges, and the proofs that catch them")
        in_order = {name: faults[name] for name in FAULTS if name in faults}
        terminalreporter.write_line("\n".join(fault_table(in_order)))
    if right:
        terminalreporter.section("right merges, and the proofs that they pass")
        terminalreporter.write_line("\n".join(right_table(right)))
