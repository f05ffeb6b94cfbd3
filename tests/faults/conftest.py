"""Prints the tables of faults and of right merges below the tests' own summary."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.library import FAULTS
from tests.faults.table import fault_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    kept = [one for report in reports if report.when == "call" for one in report.user_properties]
    faults: dict[str, Any] = {value[0]: value for name, value in kept if name == "fault"}
    if faults:
        terminalreporter.section("broken merges, and the proofs that name them")
        rows = [faults[name] for name in FAULTS if name in faults]
        terminalreporter.write_line("\n".join(fault_table(rows)))
