"""What the tests of faults found, as tables of Markdown: printed after the tests, kept in docs/proof.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.faults.proofs import PROOFS
from tests.parity import test_modules, test_stream

Rows = Sequence[Sequence[str]]

GROUPS: Mapping[str, Iterable[str]] = {
    "kinds of adapter": test_modules.KINDS,
    "architectures": test_modules.ARCHITECTURES,
    "precisions": test_modules.PRECISIONS,
    "files of the base": test_modules.FILES,
    "merged directly": [f"direct: {name}" for name in test_stream.CASES],
}
"""The parity matrix; its rows are named in tests/parity."""


def fault_table(found: Mapping[str, Sequence[str]]) -> list[str]:
    """The proofs that caught each fault, by its name."""
    rows = [[name, *_marks(caught)] for name, caught in found.items()]
    return _table(["what is wrong", *PROOFS], rows)


def _marks(caught: Iterable[str]) -> list[str]:
    return ["caught" if proof in caught else "" for proof in PROOFS]


def right_table(found: Mapping[str, Sequence[str]]) -> list[str]:
    """How many of the right merges each proof passed, by the groups of the parity matrix."""
    rows = []
    for group, names in GROUPS.items():
        there = [found[name] for name in names if name in found]
        passed = [str(sum(proof in one for one in there)) for proof in PROOFS]
        if there:
            rows.append([group, str(len(there)), *passed])
    return _table(["right merges", "rows", *PROOFS], rows)


def _table(head: Sequence[str], rows: Rows) -> list[str]:
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
