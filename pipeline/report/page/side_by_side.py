"""Several runs held against each other: what came of each, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pipeline.manifest import Manifest
from pipeline.report.page.verdict import Verdict, verdict
from pipeline.report.page.words import amount, better, label
from pipeline.report.units import duration, figure, size

_HASH = 12
"""Digits of a hash that tell files apart."""


@dataclass(frozen=True)
class Run:
    """A column."""

    record: Manifest
    name: str
    address: str
    """Of its own page."""
    verdict: Verdict


@dataclass(frozen=True)
class Value:
    """What a run has in a row; empty where it has nothing."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """Something of all runs."""

    name: str
    step: str
    values: tuple[Value, ...]

    @property
    def differs(self) -> bool:
        return len({value.text for value in self.values}) > 1


@dataclass(frozen=True)
class Part:
    """Rows under a heading."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class SideBySide:
    """The page of several runs."""

    runs: tuple[Run, ...]
    totals: tuple[Row, ...]
    differing: tuple[Part, ...]
    same: Part
    """Figures that are the same in all runs."""


def side_by_side(runs: Sequence[tuple[Manifest, str]]) -> SideBySide:
    """The page of several runs, each with where its own page lies."""
    records = [record for record, _ in runs]
    figures = _figures(records)
    parts = (
        Part("Settings that differ", _texts([_settings(record) for record in records])),
        Part("Figures that differ", tuple(row for row in figures if row.differs)),
        Part("Inputs that differ", _texts([_inputs(record) for record in records])),
        Part("Versions and machines that differ", _texts([_made_with(one) for one in records])),
    )
    return SideBySide(
        tuple(
            Run(record, PurePath(record.run_dir).name, address, verdict(record))
            for record, address in runs
        ),
        tuple(row for row in _totals(records) if any(value.text for value in row.values)),
        tuple(part for part in parts if part.rows),
        Part("Figures that are the same", tuple(row for row in figures if not row.differs)),
    )


def _texts(columns: Sequence[Mapping[str, str]]) -> tuple[Row, ...]:
    """The rows in which the runs differ."""
    names = dict.fromkeys(name for one in columns for name in one)
    rows = (Row(name, "", tuple(Value(one.get(name, "")) for one in columns)) for name in names)
    return tuple(row for row in rows if row.differs)


def _totals(records: Sequence[Manifest]) -> list[Row]:
    peaks = [max((step.peak_memory_bytes or 0 for step in one.steps), default=0) for one in records]
    written = [sum(file.bytes for file in one.outputs) for one in records]
    return [
        _row("status", [one.status for one in records]),
        _row("recipe", [one.recipe for one in records]),
        _row("time", ["" if one.seconds is None else duration(one.seconds) for one in records]),
        _row("peak memory", [size(peak) if peak else "" for peak in peaks]),
        _row("written", [size(count) if count else "" for count in written]),
        _row("engine", [one.engine if one.engine != "none" else "" for one in records]),
    ]


def _row(name: str, texts: Sequence[str]) -> Row:
    return Row(name, "", tuple(map(Value, texts)))


def _settings(record: Manifest) -> dict[str, str]:
    """All settings of the recipe, dotted; those that name the run's own folder do not set it apart."""
    found: dict[str, str] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, one in value.items():
                walk(one, f"{name}.{key}" if name else str(key))
        else:
            text = (
                value if isinstance(value, str) else figure(value) if _plain(value) else repr(value)
            )
            found[name.removeprefix("steps.")] = text.replace(record.run_dir, "${run.dir}")

    walk({key: value for key, value in record.resolved.items() if key != "run"}, "")
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _figures(records: Sequence[Manifest]) -> list[Row]:
    rows = []
    for name in dict.fromkeys(name for one in records for name in one.metrics):
        values = [one.metrics.get(name) for one in records]
        numbers = [value for value in values if isinstance(value, int | float)]
        direction = better(name) if len(set(numbers)) > 1 else ""
        wanted = {"low": min, "high": max}[direction](numbers) if direction else None
        cells = (
            Value("" if v is None else amount(name, v), wanted is not None and v == wanted)
            for v in values
        )
        step, _, last = name.partition(".")
        rows.append(Row(label(last), step, tuple(cells)))
    return rows


def _inputs(record: Manifest) -> dict[str, str]:
    return {
        f"{PurePath(file.path).parent.name}/{PurePath(file.path).name}"
        if file.repo is None
        else f"{file.repo}: {PurePath(file.path).name}": (file.blake3 or "not taken")[:_HASH]
        for file in record.inputs
    }


def _made_with(record: Manifest) -> dict[str, str]:
    return {**record.versions, **record.machine}
