"""What the tests of faults found, as tables: kept in docs/proof.md, printed after the tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.faults.proofs import PROOFS

Row = Sequence[str]


def fault_table(rows: Iterable[Row]) -> list[str]:
    """Lines of Markdown; each row is a fault's name and the proofs that caught it."""
    cells = [
        [name, *("caught" if one in caught else "" for one in PROOFS)] for name, *caught in rows
    ]
    return _table(["what is wrong", *PROOFS], cells)


def _table(head: Row, rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
