"""The jobs of a sweep: the combinations of all values that a command line, and a file of rows, give."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from pipeline.errors import COMMAND_LINE, Place, Problem, RecipeError
from pipeline.recipe import loading
from pipeline.recipe.compile import NO_PRESET
from pipeline.recipe.hydra_app import Request
from pipeline.recipe.matching import matching
from pipeline.recipe.overrides import Said

_NOT_OURS = {
    "hydra.sweeper": "`mergeline sweep` makes the jobs itself: key=a,b,c, --zip, --jobs FILE",
    "hydra/sweeper": "`mergeline sweep` makes the jobs itself: key=a,b,c, --zip, --jobs FILE",
    "hydra.launcher": "`--launcher local|joblib|slurm|ray` says where jobs run",
    "hydra/launcher": "`--launcher local|joblib|slurm|ray` says where jobs run",
    "hydra.sweep.subdir": "each job has a folder named by what sets it apart",
}
_REPLACED = ("hydra.run.dir", "hydra.sweep.dir", "hydra.mode")
"""Of the whole sweep, or set for each job."""


@dataclass(frozen=True)
class Row:
    """One line of a file of jobs: overrides as they stand on a command line."""

    overrides: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Job:
    """One run of a sweep, not checked yet."""

    overrides: tuple[str, ...]
    """All of them, as typed for a single run."""
    own: tuple[str, ...]
    """Those that the sweep varies."""


Option = dict[tuple[str, bool], str]
"""Overrides by the key that they are about, and whether they choose a preset."""


def jobs_of(request: Request, *, zipped: bool = False, rows: Sequence[Row] = ()) -> list[Job]:
    """Every combination of the values on the command line, for each of the rows.

    Zipped, the lists of values go side by side instead, and must be equally long. Raises RecipeError.
    """
    asked = request.read(multirun=True)
    said = [item for item in asked.said if item.typed and item.key not in _REPLACED]
    problems = [_not_ours(item) for item in said if _refused(item.key)]
    axes: list[list[Option]] = []
    for item in said:
        if item.sweep:
            try:
                axes.append([{(item.key, item.preset): one} for one in each(item, asked.loader)])
            except RecipeError as error:
                problems += error.problems
    if zipped:
        problems += _unequal(said, axes)
    if problems:
        raise RecipeError(problems)
    if zipped and axes:
        axes = [[_joined(options) for options in zip(*axes, strict=True)]]
    if rows:
        axes.append(_options(request, rows))
    whole = {(item.key, item.preset): item.typed for item in said}
    chosen = [_joined(options) for options in itertools.product(*axes)]
    return [Job(tuple((whole | own).values()), tuple(own.values())) for own in chosen]


def quoted(text: str) -> str:
    """Text as a value on the command line, whatever characters it has."""
    if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) and text.lower() not in _WORDS:
        return text
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    return f"'{escaped}'"


_WORDS = {"true", "false", "null", "nan", "inf"}


def _refused(key: str) -> str | None:
    return next((start for start in _NOT_OURS if key == start or key.startswith(f"{start}.")), None)


def _not_ours(item: Said) -> Problem:
    return Problem(
        "cannot be set in a sweep", _NOT_OURS[_refused(item.key) or ""], item.key, COMMAND_LINE
    )


def each(item: Said, loader: ConfigLoaderImpl) -> list[str]:
    """The overrides that one with several values stands for."""
    key = item.typed.partition("=")[0]
    return [f"{key}={value}" for value in _values(item, loader)]


def _values(item: Said, loader: ConfigLoaderImpl) -> list[str]:
    parsed = OverridesParser.create().parse_overrides([item.typed])[0]
    value: Any = parsed.value()
    if isinstance(value, IntervalSweep):
        fix = f"give values: {item.key}=a,b,c or {item.key}=range(0,1,0.1)"
        raise RecipeError(
            [Problem("an interval is no list of values", fix, item.key, COMMAND_LINE)]
        )
    parts = [value] if isinstance(value, Glob) else parsed.sweep_iterator()
    found: list[str] = []
    for part in parts:
        if isinstance(part, Glob):
            names = (
                _presets(item, part, loader)
                if item.preset
                else matching(part.include, part.exclude)
            )
            if not names:
                what = f"{', '.join(part.include)} matches nothing"
                fix = f"the folder that it starts from is {Path.cwd()}"
                raise RecipeError([Problem(what, fix, item.key, COMMAND_LINE)])
            found += map(quoted, names)
        else:
            found.append(
                str(part).lower()
                if isinstance(part, bool)
                else Override._get_value_element_as_str(part)
            )
    return found


def _presets(item: Said, pattern: Glob, loader: ConfigLoaderImpl) -> list[str]:
    step = item.text.partition("=")[0].partition("@")[0].lstrip("+")
    return pattern.filter([name for name in loader.get_group_options(step) if name != NO_PRESET])


def _unequal(said: Sequence[Said], axes: Sequence[Sequence[Option]]) -> list[Problem]:
    if len({len(axis) for axis in axes}) < 2:
        return []
    keys = [item.key for item in said if item.sweep]
    counts = ", ".join(f"{key} has {len(axis)}" for key, axis in zip(keys, axes, strict=False))
    fix = "give each as many values, or leave --zip out for all combinations"
    return [Problem(f"the lists are not equally long: {counts}", fix, "--zip", COMMAND_LINE)]


def _options(request: Request, rows: Sequence[Row]) -> list[Option]:
    """The overrides of each row, held against the recipe."""
    options: list[Option] = []
    problems: list[Problem] = []
    for row in rows:
        alone = replace(request, overrides=row.overrides)
        asked = loading.read(alone.path, alone.overrides, alone.config_dir)
        problems += [
            replace(problem, place=row.place if problem.place == COMMAND_LINE else problem.place)
            for problem in asked.problems
        ]
        options.append({(item.key, item.preset): item.typed for item in asked.said if item.typed})
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return options


def _joined(options: Sequence[Option]) -> Option:
    return {key: text for option in options for key, text in option.items()}
