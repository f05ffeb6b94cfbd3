"""The figures of modules, in a few lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.proof.module_tolerance import delta_kept
from pipeline.proof.modules import ModuleFigures


def module_table(found: Sequence[ModuleFigures], most: int) -> str:
    """How many there are, what they keep, and the `most` whose delta is furthest from what it should be."""
    kept = delta_kept(found)
    first = (
        f"{len(found)} modules on random inputs: error at most {max(f.error for f in found):.2%}"
    )
    worst = sorted(found, key=_distance, reverse=True)[:most]
    rows = [("", "error", "delta / base", "delta kept"), *map(_row, worst)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    lines[0] = f"{'the worst' if len(found) > most else 'each':<{widths[0]}}{lines[0][widths[0] :]}"
    return "\n".join([first + ("" if kept is None else f", {kept:.1%} of the delta kept"), *lines])


def _distance(one: ModuleFigures) -> tuple[float, float]:
    off = 0.0 if one.delta_kept is None else abs(one.delta_kept - 1)
    return off, one.error


def _row(one: ModuleFigures) -> tuple[str, str, str, str]:
    kept = "" if one.delta_kept is None else f"{one.delta_kept:.1%}"
    return one.name, f"{one.error:.2%}", f"{one.delta:.2%}", kept
