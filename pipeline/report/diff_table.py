"""The differences of two checkpoints on the terminal: a line for each kind of tensor, or for each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.output import standard_output

if TYPE_CHECKING:
    from pipeline.proof.diff import Change, Difference

_NAMED = 10
"""Tensors on one side only that are named; the rest is counted."""


def print_diff(
    differences: Sequence[Difference], *, every: bool = False, console: Console | None = None
) -> None:
    """A table by kind of tensor, or with `every` of all tensors, and the sums below it."""
    out = console or standard_output()
    out.print(_all(differences) if every else _by_kind(differences))
    if not every:
        for line in _odd(differences):
            out.print(Text(line))
    out.print(Text(summary(differences)))


def summary(differences: Sequence[Difference]) -> str:
    """`291 tensors: 123 equal, 168 changed`."""
    if all(found.status == "equal" for found in differences):
        return f"{len(differences)} tensors, all equal"
    counts: dict[str, int] = {}
    for found in differences:
        counts[_words(found)] = counts.get(_words(found), 0) + 1
    said = ", ".join(f"{count} {words}" for words, count in counts.items())
    return f"{len(differences)} tensors: {said}"


def kind_of(key: str) -> str:
    """The name with a star for each number in it: `model.layers.*.mlp.up_proj.weight`."""
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", key)


def _words(found: Difference) -> str:
    return {"dtype": "of another dtype", "shape": "of another shape"}.get(
        found.status, found.status
    )


def _by_kind(differences: Sequence[Difference]) -> Table:
    groups: defaultdict[str, list[Difference]] = defaultdict(list)
    for found in differences:
        if found.a is not None and found.b is not None:
            groups[kind_of(found.key)].append(found)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("kind", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    table.add_column("equal", justify="right")
    table.add_column("differ", justify="right")
    table.add_column("relative, at most", justify="right")
    table.add_column("in", overflow="fold")
    table.add_column("elements", justify="right")
    table.add_column("rank", justify="right")
    for kind, group in groups.items():
        equal = sum(found.status == "equal" for found in group)
        forms = sorted({_forms(found) for found in group})
        changes = [(found.change, found.key) for found in group if found.change]
        row = [kind, ", ".join(forms), str(equal or ""), str(len(group) - equal or "")]
        table.add_row(*map(Text, (*row, *_worst(kind, changes))))
    return table


def _worst(kind: str, changes: Sequence[tuple[Change, str]]) -> list[str]:
    """The largest relative difference, the numbers of the tensor that has it, elements and ranks."""
    if not changes:
        return [""] * 4
    # Not a number is worse than any.
    worst, key = max(
        changes, key=lambda item: (item[0].relative != item[0].relative, item[0].relative)
    )
    numbers = [
        own for own, star in zip(key.split("."), kind.split("."), strict=True) if star == "*"
    ]
    shares = [change.share for change, _ in changes]
    ranked = [change for change, _ in changes if change.rank is not None]
    low = min(ranked, key=lambda c: (c.rank_more, c.rank), default=None)
    high = max(ranked, key=lambda c: (c.rank_more, c.rank), default=None)
    ranks = [_rank(change) for change in (low, high) if change]
    return [
        f"{worst.relative:.3g}",
        ".".join(numbers),
        _range(f"{min(shares):.1%}", f"{max(shares):.1%}"),
        _range(*ranks) if ranks else "",
    ]


def _all(differences: Sequence[Difference]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("form", overflow="fold")
    for title in ("norm", "relative", "largest", "elements", "rank"):
        table.add_column(title, justify="right")
    for found in differences:
        change = found.change
        figures = [""] * 5
        if change:
            figures = [f"{n:.3g}" for n in (change.norm, change.relative, change.largest)]
            figures += [f"{change.share:.1%}", _rank(change)]
        form = f"{_forms(found)} {_shapes(found)}"
        table.add_row(*map(Text, (found.key, found.status, form, *figures)))
    return table


def _odd(differences: Sequence[Difference]) -> list[str]:
    """Lines for tensors that are on one side only, or of another shape."""
    lines = []
    for status in ("only in A", "only in B", "shape"):
        keys = [
            f"{found.key} ({_shapes(found)})" for found in differences if found.status == status
        ]
        if keys:
            more = f", and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            head = "another shape" if status == "shape" else status
            lines.append(f"{head}: {', '.join(keys[:_NAMED])}{more}")
    return lines


def _forms(found: Difference) -> str:
    names = dict.fromkeys(form.dtype for form in (found.a, found.b) if form)
    return " -> ".join(names)


def _shapes(found: Difference) -> str:
    shapes = ("x".join(map(str, form.shape)) for form in (found.a, found.b) if form)
    return " -> ".join(dict.fromkeys(shapes))


def _rank(change: Change) -> str:
    if change.rank is None:
        return ""
    return f"over {change.rank}" if change.rank_more else str(change.rank)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
