"""The jobs of a sweep as a table, from which the script of the page draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.manifest import Figure
from pipeline.report.page.words import QUALITIES, Better, Unit, amount, better, label, unit

if TYPE_CHECKING:
    from pipeline.sweep.status import JobRow

Kind = Literal["setting", "figure", "time"]

_SHOWN = (*QUALITIES, "bytes")
"""Figures that the table shows at once."""


@dataclass(frozen=True)
class Cell:
    """A value of a job; `value` is what to sort and to draw by, empty where there is none."""

    text: str
    value: str
    best: bool = False
    """In its column."""


@dataclass(frozen=True)
class Column:
    """A setting or a figure of all jobs."""

    name: str
    kind: Kind
    label: str
    step: str
    """Which step has it, where the label does not tell."""
    unit: Unit
    better: Better
    varies: bool
    numeric: bool
    shown: bool
    """At once; others on request."""

    @property
    def last(self) -> str:
        """The name without those of the step, the task or the model that it is a figure of."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Job:
    """A row of the table."""

    row: JobRow
    address: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class JobsTable:
    """All jobs of a sweep."""

    columns: tuple[Column, ...]
    jobs: tuple[Job, ...]

    @property
    def has_more(self) -> bool:
        """Whether there are columns that are not shown at once."""
        return any(not column.shown for column in self.columns)


def jobs_table(jobs: Sequence[JobRow], addresses: Mapping[str, str]) -> JobsTable:
    """The table of all jobs, with what sets them apart and every figure in which they differ."""
    settings = [_settings(job.overrides) for job in jobs]
    columns: list[Column] = []
    rows: list[list[Cell]] = [[] for _ in jobs]

    def add(name: str, kind: Kind, says: str, cells: Sequence[Cell], *, shown: bool = True) -> None:
        step = name.partition(".")[0] if kind == "figure" else ""
        varies = len({cell.value for cell in cells if cell.value}) > 1
        if not (varies or shown):
            return
        direction: Better = better(name) if kind == "figure" else "low" if kind == "time" else ""
        if kind == "figure" and varies and direction:
            cells = _with_the_best(direction, cells)
        numeric = all(_number(cell) is not None for cell in cells if cell.value)
        how = unit(name) if kind != "setting" else ""
        columns.append(Column(name, kind, says, step, how, direction, varies, numeric, shown))
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)

    for name in dict.fromkeys(name for one in settings for name in one):
        cells = [Cell(one.get(name, ""), _plain(one.get(name, ""))) for one in settings]
        add(name, "setting", name, cells)
    add("seconds", "time", "time", [_figure("seconds", job.seconds) for job in jobs])
    names = dict.fromkeys(name for job in jobs for name in job.metrics)
    few = not any(_is_telling(name) for name in names)
    for name in names:
        cells = [_figure(name, job.metrics.get(name)) for job in jobs]
        said = label(name.partition(".")[2])
        add(name, "figure", said, cells, shown=few or _is_telling(name))
    return JobsTable(
        tuple(columns),
        tuple(
            Job(job, addresses.get(job.folder, ""), tuple(cells))
            for job, cells in zip(jobs, rows, strict=True)
        ),
    )


def _settings(overrides: Iterable[str]) -> dict[str, str]:
    """`save.dtype=float16` by its name; a step that is taken out with `~verify` is a setting too."""
    found = {}
    for text in overrides:
        name, given, value = text.lstrip("+").partition("=")
        found[name] = value.strip("'\"") if given else "yes"
    return found


def _plain(value: str) -> str:
    """A number as JavaScript reads it; anything else as it is."""
    try:
        return repr(float(value)) if math.isfinite(float(value)) else value
    except ValueError:
        return value


def _figure(name: str, value: Figure) -> Cell:
    if value is None:
        return Cell("", "")
    if isinstance(value, str):
        return Cell(value, {"inf": "Infinity", "-inf": "-Infinity", "nan": ""}.get(value, value))
    return Cell(amount(name, value), repr(value + 0))


def _is_telling(name: str) -> bool:
    """Whether a figure is shown at once."""
    return name.partition(".")[2] in _SHOWN


def _with_the_best(direction: Better, cells: Sequence[Cell]) -> list[Cell]:
    """The cells with those that have the best figure marked."""
    known = [number for cell in cells if (number := _number(cell)) is not None]
    wanted = (min if direction == "low" else max)(known, default=None)
    return [Cell(c.text, c.value, wanted is not None and _number(c) == wanted) for c in cells]


def _number(cell: Cell) -> float | None:
    try:
        return float(cell.value)
    except ValueError:
        return None
