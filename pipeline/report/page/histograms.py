"""How often values occur, as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.manifest import Histogram
from pipeline.report.units import figure

_TITLES = {"logit_differences": "Differences of the logits"}
_EXPLAINS = {
    "logit_differences": "The saved model's less the trained one's, all classes at all positions."
}


@dataclass(frozen=True)
class Column:
    """One bin; heights are shares of the picture's."""

    height: float
    says: str


@dataclass(frozen=True)
class Line:
    """A line across the picture, at a round count."""

    height: float
    count: str


@dataclass(frozen=True)
class Bars:
    """The picture. Heights are logarithms of the counts: the few that are far out are what one looks for."""

    title: str
    explains: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    least: str
    middle: str
    most: str
    values: str
    """How many there are."""


def bars(name: str, found: Histogram) -> Bars | None:
    """The picture of a histogram; None of an empty one."""
    most = max(found.counts, default=0)
    if most < 1:
        return None
    top = math.log10(most) + 1
    width = (found.most - found.least) / len(found.counts)
    columns = []
    for at, count in enumerate(found.counts):
        left = found.least + at * width
        says = f"{figure(left)} to {figure(left + width)}: {figure(count)}"
        columns.append(Column((math.log10(count) + 1) / top if count else 0.0, says))
    powers = range(0, int(math.log10(most)) + 1, 1 + int(math.log10(most)) // 4)
    return Bars(
        _TITLES.get(name, name.replace("_", " ")),
        _EXPLAINS.get(name, ""),
        tuple(columns),
        tuple(Line((power + 1) / top, figure(10**power)) for power in powers),
        figure(found.least),
        figure((found.least + found.most) / 2),
        figure(found.most),
        figure(sum(found.counts)),
    )
