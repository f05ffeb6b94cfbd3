"""The tables in docs/proof.md are those that the tests print."""

from __future__ import annotations

from pathlib import Path

from tests.faults.library import FAULTS
from tests.faults.rows import GROUPS, passed_by
from tests.faults.table import fault_table, right_table

PAGE = Path(__file__).parents[2] / "docs" / "proof.md"


def test_the_page_has_the_table_of_faults() -> None:
    table = fault_table({name: fault.caught for name, fault in FAULTS.items()})
    assert table in PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_table_of_right_merges() -> None:
    passed = {
        group: [passed_by(name, row) for name, row in rows.items()]
        for group, rows in GROUPS.items()
    }
    assert right_table(passed) in PAGE.read_text(encoding="utf-8")
