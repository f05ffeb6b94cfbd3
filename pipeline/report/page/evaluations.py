"""The figures of all `evaluate` steps in one table, so that models can be held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.manifest import Figure, StepRecord
from pipeline.report.page.words import amount, label


@dataclass(frozen=True)
class Value:
    """A figure of one model; the bar is its share of the largest in the row."""

    text: str
    bar: float | None = None
    tone: str = "blue"


@dataclass(frozen=True)
class Measure:
    """A row: one figure of all models."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, a column for each model, and for each change against a base."""

    columns: tuple[str, ...]
    rows: tuple[Measure, ...]
    compared: bool
    """Whether a base was measured too."""


def evaluation(steps: Sequence[StepRecord]) -> Evaluation | None:
    """The table, or None where nothing was measured."""
    columns: dict[str, dict[str, Figure]] = {}
    for step in steps:
        base = _under(step, "base.")
        if base:
            columns[f"{step.id}: base"] = base
        columns[step.id] = {
            name: value
            for name, value in step.metrics.items()
            if not name.startswith(("base.", "change."))
        }
        if base:
            columns[f"{step.id}: change"] = _under(step, "change.")
    if not columns:
        return None
    names = dict.fromkeys(name for found in columns.values() for name in found)
    return Evaluation(
        tuple(columns),
        tuple(_row(name, columns) for name in names),
        compared=any(name.endswith(": base") for name in columns),
    )


def _under(step: StepRecord, prefix: str) -> dict[str, Figure]:
    return {
        name.removeprefix(prefix): value
        for name, value in step.metrics.items()
        if name.startswith(prefix)
    }


def _row(name: str, columns: dict[str, dict[str, Figure]]) -> Measure:
    """Bars are for measures, which are fractions; counts (tokens, questions) say on how much."""
    measures = {
        column: value
        for column, found in columns.items()
        if isinstance(value := found.get(name), float) and not column.endswith(": change")
    }
    most = max(map(abs, measures.values()), default=0.0)
    values = []
    for column, found in columns.items():
        if name not in found:
            values.append(Value(""))
            continue
        text = amount(name, found[name])
        value = found[name]
        if column.endswith(": change") and isinstance(value, float) and value > 0:
            text = f"+{text}"
        bar = abs(measures[column]) / most if column in measures and most else None
        values.append(Value(text, bar, "grey" if column.endswith(": base") else "blue"))
    return Measure(label(name), tuple(values))
