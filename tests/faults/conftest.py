"""Prints the tables of broken and of right merges below the tests' own summary."""

from __future__ import annotations

import pytest

from tests.faults.library import FAULTS
from tests.faults.rows import GROUPS
from tests.faults.table import fault_table, right_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With xdist too: what tests record comes with their reports."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    kept = [one for report in reports if report.when == "call" for one in report.user_properties]
    faults = {value[0]: value[1:] for kind, value in kept if kind == "fault"}
    if faults:
        terminalreporter.section("broken merges, and the proofs that catch them")
        in_order = {name: faults[name] for name in FAULTS if name in faults}
        terminalreporter.write_line(fault_table(in_order))
    right = [value for kind, value in kept if kind == "right"]
    if right:
        terminalreporter.section("right merges, and the proofs that they pass")
        by_group = {group: [one[2:] for one in right if one[0] == group] for group in GROUPS}
        terminalreporter.write_line(right_table({g: rows for g, rows in by_group.items() if rows}))
