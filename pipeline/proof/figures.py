"""Figures of one model, or of two side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Number = float | int

_NAMED = 3
"""Examples that a warning names; the rest is counted."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a model."""

    values: Mapping[str, float]
    """By stable names; these are what two models are compared by."""
    measured_on: Mapping[str, int]
    """Tokens, questions and the like: equal for two models that were asked the same."""
    details: Mapping[str, Number] = field(default_factory=dict)
    """Recorded, but not compared: standard errors, and parts of what `values` sum up."""
    answers: tuple[Mapping[str, Any], ...] = ()
    """What the model said to each question, for a person to look into."""
    lost: tuple[str, ...] = ()
    """Examples for which the model gave NaN in place of predictions, each by its place."""


def joined(parts: Sequence[Figures]) -> Figures:
    """Figures of one model from several measurements."""
    return Figures(
        {name: value for part in parts for name, value in part.values.items()},
        {name: value for part in parts for name, value in part.measured_on.items()},
        {name: value for part in parts for name, value in part.details.items()},
        tuple(answer for part in parts for answer in part.answers),
        tuple(place for part in parts for place in part.lost),
    )


def recorded(this: Figures, base: Figures | None) -> dict[str, Number]:
    """Figures for the manifest: those of the base as `base.<name>`, the difference as `change.<name>`."""
    found = {**this.values, **this.measured_on, **this.details}
    if base is not None:
        of_base = {**base.values, **base.details}
        found |= {f"base.{name}": value for name, value in of_base.items()}
        found |= {f"change.{name}": value for name, value in changes(this, base).items()}
    return found


def changes(this: Figures, base: Figures) -> dict[str, float]:
    """This model's figures less the base's."""
    return {name: value - base.values[name] for name, value in this.values.items()}


def doubts(model: str, figures: Figures) -> list[str]:
    """What keeps the figures of a model from telling how good it is, in words; empty when nothing does."""
    said = []
    if figures.lost:
        more = len(figures.lost) - _NAMED
        some = ", ".join(figures.lost[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        said.append(f"{model} gives NaN in place of predictions for {some}")
    odd = [name for name, value in figures.values.items() if not math.isfinite(value)]
    if odd:
        said.append(f"of {model}, {', '.join(odd)} cannot be told: not a finite number came out")
    return said


def table(this: Figures, base: Figures | None) -> str:
    """A line for each figure, in columns, and what it was measured on."""
    if base is None:
        lines = columns([[name, _value(value)] for name, value in this.values.items()])
    else:
        rows = [
            [
                name,
                _value(base.values[name]),
                _value(this.values[name]),
                f"{change:+.4g}" if change else "0",
            ]
            for name, change in changes(this, base).items()
        ]
        lines = columns([["", "base", "this", "change"], *rows])
    about = ", ".join(f"{name} {amount:,}" for name, amount in this.measured_on.items())
    return "\n".join([*lines, about])


def _value(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.3e}"


def columns(rows: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in rows
    ]
