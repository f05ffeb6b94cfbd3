"""What a search may choose: `key=interval(0,1)`, or a list of values as in a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.recipe.grid import Job, each, jobs_of
from pipeline.recipe.hydra_app import Request


@dataclass(frozen=True)
class Interval:
    """Any number from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    whole: bool
    """Whole numbers only."""
    log: bool
    """Spread evenly over orders of magnitude."""

    @property
    def ends(self) -> tuple[str, str]:
        return self.override(self.low), self.override(self.high)

    def override(self, value: float) -> str:
        return f"{self.key}={round(value) if self.whole else f'{value:.6g}'}"


@dataclass(frozen=True)
class Choices:
    """One of some overrides."""

    key: str
    options: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, str]:
        return self.options[0], self.options[-1]


Dimension = Interval | Choices


def read_space(request: Request, words: Sequence[str]) -> list[Dimension]:
    """The dimensions that `--search` names, checked against the recipe. Raises RecipeError.

    `key=interval(0,1)`, `key=int(interval(1,64))`, `key=tag(log,interval(1e-5,1e-3))`, and every list of
    values that the grid of a sweep may have.
    """
    fixed = request.read(multirun=True)
    lists = [item.key for item in fixed.said if item.typed and item.sweep]
    problems = [
        Problem("has several values in a search", "give it after --search", key, COMMAND_LINE)
        for key in lists
    ]
    asked = replace(request, overrides=tuple(words)).read(multirun=True)
    space: list[Dimension] = []
    for item in asked.said:
        if not item.typed:
            continue
        key = item.typed.partition("=")[0]
        if not item.sweep:
            what, fix = "is one value, which leaves nothing to search", f"{key}=interval(0,1)"
            problems.append(Problem(what, fix, item.key, COMMAND_LINE))
            continue
        value = OverridesParser.create().parse_overrides([item.typed])[0].value()
        if not isinstance(value, IntervalSweep):
            space.append(Choices(key, tuple(each(item, asked.loader))))
            continue
        low, high = value.start, value.end
        log = "log" in value.tags
        if low is None or high is None or not low < high or (log and low <= 0):
            what = f"from {low} to {high} is no interval{' that has a logarithm' if log else ''}"
            problems.append(Problem(what, None, item.key, COMMAND_LINE))
            continue
        whole = isinstance(low, int) and isinstance(high, int)
        space.append(Interval(key, low, high, whole, log))
    if problems:
        raise RecipeError(problems)
    return space


def job_with(request: Request, own: Sequence[str]) -> Job:
    """The one job that chosen values make of a request."""
    job = jobs_of(replace(request, overrides=(*request.overrides, *own)))[0]
    return replace(job, own=tuple(own))
