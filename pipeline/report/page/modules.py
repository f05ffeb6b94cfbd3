"""Figures of single modules, laid out by layer and kind of module."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.manifest import Figure
from pipeline.report.page.words import percent

WORST = 10
"""Modules that are named."""

_LAYER = re.compile(r"^(?P<stack>.*?)\.?(?<![^.])(?P<layer>\d+)\.(?P<kind>.+)$")

Modules = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class Cell:
    """One place of a heat map."""

    row: int
    column: int
    strength: float
    """Of the colour: from 0, nothing to be seen, to 1."""
    says: str


@dataclass(frozen=True)
class HeatMap:
    """A figure of all modules: a row for each kind of module, a column for each layer."""

    title: str
    explains: str
    tone: str
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    cells: tuple[Cell, ...]
    least: str
    """Where the scale begins, and the worst figure on the map."""
    worst: str


@dataclass(frozen=True)
class ModuleRow:
    """A module in the table."""

    name: str
    values: tuple[tuple[float, str], ...]
    """What to sort by, and what to show, for each column."""


@dataclass(frozen=True)
class ModuleTable:
    """The modules that deserve a look first, the worst of them on top."""

    columns: tuple[str, ...]
    rows: tuple[ModuleRow, ...]
    of: int
    """How many modules there are."""


@dataclass(frozen=True)
class _Kind:
    """A figure that is drawn."""

    title: str
    explains: str
    tone: str
    of: Callable[[Mapping[str, Figure]], float | None]
    best: float = 0.0
    """Where the scale begins; the further a value is from it, the stronger its colour."""
    span: float = 0.0
    """Least length of the scale, so that noise does not look like a finding."""

    def concern(self, value: float) -> float:
        """How far a value is from the best."""
        return abs(value - self.best)


def heat_maps(modules: Modules) -> list[HeatMap]:
    """A map of each figure that the modules have; none of modules that stand in no layer."""
    placed = [(place, found) for name, found in modules.items() if (place := _place(name))]
    stacks = {stack for stack, _, _ in (place for place, _ in placed)}
    maps = []
    for kind in _KINDS:
        values: dict[tuple[str, int], list[float]] = {}
        for (stack, layer, name), found in placed:
            value = kind.of(found)
            if value is not None:
                row = f"{stack}.{name}" if len(stacks) > 1 else name
                values.setdefault((row, layer), []).append(value)
        if values:
            worst = {place: max(many, key=kind.concern) for place, many in values.items()}
            maps.append(_map(kind, worst))
    return maps


def module_table(modules: Modules) -> ModuleTable | None:
    """The worst modules: those whose delta is furthest from what it should be, then by their error."""
    kinds = [k for k in _KINDS if any(k.of(found) is not None for found in modules.values())]
    if not kinds:
        return None

    def concern(found: Mapping[str, Figure]) -> list[float]:
        values = ((kind, kind.of(found)) for kind in (_KEPT, _ERROR))
        return [0.0 if value is None else kind.concern(value) for kind, value in values]

    worst = sorted(modules.items(), key=lambda item: concern(item[1]), reverse=True)[:WORST]
    rows = [
        ModuleRow(name, tuple(_shown(kind.of(found), kind) for kind in kinds))
        for name, found in worst
    ]
    return ModuleTable(tuple(kind.title for kind in kinds), tuple(rows), len(modules))


def _place(name: str) -> tuple[str, int, str] | None:
    """Stack, layer and kind of a module; experts of one layer are of one kind."""
    match = _LAYER.match(name)
    if not match:
        return None
    kind = re.sub(r"(?<![^.])\d+(?![^.])", "*", match["kind"])
    return match["stack"], int(match["layer"]), kind


def _map(kind: _Kind, values: Mapping[tuple[str, int], float]) -> HeatMap:
    rows = tuple(dict.fromkeys(row for row, _ in values))
    columns = tuple(sorted({layer for _, layer in values}))
    worst = max(values.values(), key=kind.concern)
    finite = filter(math.isfinite, map(kind.concern, values.values()))
    span = max(*finite, kind.span, 0.0)
    cells = [
        Cell(
            rows.index(row),
            columns.index(layer),
            min(kind.concern(value) / span, 1.0) if span else float(kind.concern(value) > 0),
            f"layer {layer}, {row}: {percent(value)}",
        )
        for (row, layer), value in values.items()
    ]
    return HeatMap(
        kind.title,
        kind.explains,
        kind.tone,
        rows,
        columns,
        tuple(cells),
        percent(kind.best),
        percent(worst),
    )


def _shown(value: float | None, kind: _Kind) -> tuple[float, str]:
    return (0.0, "") if value is None else (min(value, 1e308), percent(value))


def _number(found: Mapping[str, Figure], name: str) -> float | None:
    """A figure; one that is infinite or no number, for which JSON has words, is as bad as can be."""
    value = found.get(name)
    return math.inf if isinstance(value, str) else None if value is None else float(value)


def _relative_norm(found: Mapping[str, Figure]) -> float | None:
    delta, base = _number(found, "delta_norm"), _number(found, "base_norm")
    return delta / base if delta is not None and base else None


_DELTA = _Kind(
    "Size of the delta",
    "The norm of what the adapters add, against the norm of the base's weight.",
    "blue",
    _relative_norm,
)
_KEPT = _Kind(
    "Delta kept",
    "The share of the delta that is in the saved weights; the stronger the colour, the less.",
    "amber",
    lambda found: _number(found, "delta_kept"),
    best=1.0,
    span=0.5,
)
_ERROR = _Kind(
    "Error of the module",
    "How far the merged module's answer is from the base's plus the adapters' on random inputs.",
    "violet",
    lambda found: _number(found, "error"),
    span=0.01,
)
_KINDS = (_DELTA, _KEPT, _ERROR)
