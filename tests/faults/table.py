"""What the tests of faults found, as tables of Markdown: printed after the tests, kept in docs/proof.md."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tests.faults.proofs import PROOFS

Proofs = Collection[str]


def fault_table(caught: Mapping[str, Proofs]) -> str:
    """The proofs that caught each fault."""
    rows = [
        [name, *("caught" if proof in by else "" for proof in PROOFS)]
        for name, by in caught.items()
    ]
    return _table(["what is wrong", *PROOFS], rows)


def right_table(passed: Mapping[str, Sequence[Proofs]]) -> str:
    """How many of each group of right merges the proofs passed."""
    rows = [
        [group, str(len(rows)), *(str(sum(proof in one for one in rows)) for proof in PROOFS)]
        for group, rows in passed.items()
    ]
    return _table(["right merges", "rows", *PROOFS], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
