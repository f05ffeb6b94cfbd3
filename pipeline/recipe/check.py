"""From a composed config to a typed recipe, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, flag_override
from pydantic import ValidationError

from pipeline.errors import COMMAND_LINE, Place, Problem
from pipeline.recipe.branches import Branch, WrongError, parted, standing
from pipeline.recipe.compile import FOR_EACH, NO_PRESET, Compiled, Line
from pipeline.recipe.defaults import defaults_of
from pipeline.recipe.head import Head
from pipeline.recipe.model import Recipe, StepCall
from pipeline.recipe.resolve import MISSING, Failure, resolve, root_causes, source_of
from pipeline.recipe.wrong_values import explain
from pipeline.steps import Thing, all_steps, makers_of


@dataclass(frozen=True)
class Places:
    """Where each key stands, and what stands there."""

    known: Mapping[str, Place]
    file: str

    def stands(self, key: str) -> bool:
        """Whether the user wrote it, or something around it."""
        return key in self.known or key.partition(".")[0] == "params"

    def of(self, key: str) -> Place:
        while key:
            if key in self.known:
                return self.known[key]
            key = key.rpartition(".")[0]
        return Place(self.file)


def check(
    compiled: Compiled,
    config: DictConfig,
    places: Mapping[str, Place],
    presets: Mapping[str, str],
) -> tuple[Mapping[str, Any], list[Any], list[Problem]]:
    """Resolve and type a composed recipe.

    Returns the resolved data, one `StepCall` for each step that is sound, and the problems.
    """
    where = Places(places, compiled.document.file)
    failures: list[Failure] = []
    data: dict[str, Any] = {}
    for key in (field.name for field in fields(Head)):
        data[key], failed = resolve(config, key)
        failures += failed
    lines = [line for line in compiled.lines if line.id in config.steps]
    ways, unparted, failed = _ways(config, lines)
    failures += failed
    data["steps"] = {branch.id(line): values for line, branch, values in ways}
    data["run"], failed = resolve(config, "run")
    failures += failed

    problems = [_placed(problem, key, where) for key, problem in unparted]
    problems += [_placed(f.problem, f.key, where) for f in root_causes(failures)]
    failed_keys = {failure.key for failure in failures}
    problems += _unasked(data["params"], failures, where)
    head = {key: value for key, value in data.items() if key not in ("steps", "run")}
    typed, wrong = _typed(Head, head, "", failed_keys)
    problems += [_wrong_value(config, key, problem, where) for key, problem in wrong]
    calls = []
    for line, branch, values in ways:
        typed, wrong = _typed(line.step.settings, values, f"steps.{line.id}", failed_keys)
        problems += [_wrong_value(config, k, problem, where, line) for k, problem in wrong]
        if typed is not None:
            chosen = presets.get(line.id, line.preset)
            preset = None if chosen == NO_PRESET else chosen
            id = branch.id(line)
            calls.append(StepCall(id, line.step, preset, typed, line.place, branch.names))
    problems += _order(compiled, lines)
    problems += [
        Problem(
            "is set, but is no step of the recipe's list", None, str(id), where.of(f"steps.{id}")
        )
        for id in config.steps
        if compiled.line(str(id)) is None
    ]
    if not str(data["run"]["dir"] or "").strip():
        problems.append(Problem("the run needs a folder", None, "hydra.run.dir", COMMAND_LINE))
    return data, calls, problems


def _ways(
    config: DictConfig, lines: Sequence[Line]
) -> tuple[list[tuple[Line, Branch, Any]], list[tuple[str, Problem]], list[Failure]]:
    """Each line with its resolved options, once for each branch; what is wrong with a `for_each`, by its
    key; and the interpolations that failed."""
    ways: list[tuple[Line, Branch, Any]] = []
    wrong: list[tuple[str, Problem]] = []
    failures: list[Failure] = []
    branches = [Branch()]
    for line in lines:
        _restore_defaults(config, line)
        options = config.steps[line.id]
        if isinstance(options, DictConfig) and FOR_EACH in options:
            key = f"steps.{line.id}.{FOR_EACH}"
            value, failed = resolve(config, key)
            failures += failed
            try:
                branches = [] if failed else parted(branches, line, value)
            except WrongError as error:
                wrong.append((key, error.problem))
                branches = []
            if not branches:
                branches = [Branch(("unknown",))]
                continue
        for branch in branches:
            with standing(config, branch):
                values, failed = resolve(config, f"steps.{line.id}")
            failures += failed
            if isinstance(values, dict):
                values.pop(FOR_EACH, None)
            ways.append((line, branch, values))
    return ways, wrong, failures


def _restore_defaults(config: DictConfig, line: Line) -> None:
    """An option that was taken away (`~save.path`) has its default again."""
    options = config.steps[line.id]
    if isinstance(options, DictConfig):
        with flag_override(options, ["struct", "readonly"], False):
            for name, value in defaults_of(line.step).items():
                if name not in options:
                    options[name] = value


def _typed(
    settings: Any, data: Any, key: str, failed: set[str]
) -> tuple[Any, list[tuple[str, Problem]]]:
    """The settings as their class, or what is wrong with them. Values that did not resolve are skipped."""
    above = f"{key}." if key else ""
    if not isinstance(data, Mapping):
        return None, [(key, Problem(f"must be a mapping of options, got {data!r}"))]
    values = {name: value for name, value in data.items() if value is not MISSING}
    lost = {
        name
        for name in values
        if any(f == above + name or f.startswith(f"{above}{name}.") for f in failed)
    }
    try:
        return settings(**values), []
    except ValidationError as error:
        found = explain(error, values, settings)
    wrong = [
        (above + ".".join(str(part) for part in path), problem)
        for path, problem in found
        if path and path[0] not in lost
    ]
    return None, wrong


def _wrong_value(
    config: DictConfig, key: str, problem: Problem, where: Places, line: Line | None = None
) -> Problem:
    """A wrong value is told where it stands, which may be another key that the option refers to."""
    source = source_of(config, key)
    if not where.stands(source):
        source = key
    if source != key:
        problem = Problem(f"{problem.what} (as {_as_typed(key)})", problem.fix)
    elif problem.what.startswith("there is no option") and line is not None:
        problem = Problem(
            f"`{line.step.name}` has no option {key.rpartition('.')[2]!r}", problem.fix
        )
    elif problem.what.startswith("is required") and line is not None:
        name = _as_typed(key)
        fix = (
            f"add `{name.partition('.')[2]}` to the step, or give {name}=VALUE on the command line"
        )
        return Problem(problem.what, fix, name, where.of(key))
    return _placed(problem, source, where)


def _placed(problem: Problem, key: str, where: Places) -> Problem:
    return problem.at(where.of(key), _as_typed(key))


def _as_typed(key: str) -> str:
    """The key as one writes it on the command line."""
    return key.removeprefix("steps.")


def _unasked(params: Any, failures: Sequence[Failure], where: Places) -> list[Problem]:
    """Params left at `???` that no step refers to; the others were told with the step."""
    told = {failure.target for failure in failures}
    return [
        Problem("has no value yet", f"give it on the command line: params.{name}=VALUE").at(
            where.of(f"params.{name}"), f"params.{name}"
        )
        for name, value in (params.items() if isinstance(params, Mapping) else ())
        if value is MISSING and f"params.{name}" not in told
    ]


def _order(compiled: Compiled, lines: Sequence[Line]) -> list[Problem]:
    """Steps that need what no step before them makes."""
    problems: list[Problem] = []
    made: set[str] = set()
    position = {line.id: i for i, line in enumerate(compiled.lines)}
    for line in lines:
        for at, name in compiled.unknown.items():
            if at <= position[line.id]:
                # What stands there is not known; take it for what it seems to be, or for anything.
                made |= set(all_steps()[name].makes if name else _EVERYTHING)
        lacking = sorted(line.step.needs - made)
        if lacking:
            what = f"`{line.step.name}` needs {_words(lacking)}, and no step before it makes "
            what += "one" if len(lacking) == 1 else "them"
            fix = "; ".join(_maker(thing, lines) for thing in lacking)
            problems.append(Problem(what, fix, line.id, line.place))
            made.update(lacking)
        made |= line.step.makes
    return problems


def _maker(thing: Thing, lines: Sequence[Line]) -> str:
    makers = makers_of(thing)
    later = next((line for line in lines if line.step.name in makers), None)
    if later is not None:
        return f"move `{later.id}` (line {later.place.line}) up before it"
    return f"put {' or '.join(f'`- {name}`' for name in makers)} before it"


def _words(things: Sequence[str]) -> str:
    return " and ".join(f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things)


_EVERYTHING = ("base", "adapter", "model folder", "adapter folder")


def make_recipe(
    compiled: Compiled,
    data: Mapping[str, Any],
    calls: Sequence[StepCall],
    places: Mapping[str, Place],
    overrides: Sequence[str],
    fingerprint: str,
) -> Recipe:
    """Put a recipe together from what `check` found sound."""
    return Recipe(
        name=data["name"],
        path=Path(compiled.document.file),
        steps=tuple(calls),
        run_dir=Path(data["run"]["dir"]),
        params=data["params"],
        engine=data["engine"],
        device=data["device"],
        seed=data["seed"],
        tags=tuple(data["tags"]),
        tracking=data["tracking"],
        workers=data["workers"],
        overrides=tuple(overrides),
        resolved=data,
        fingerprint=fingerprint,
        places={_as_typed(key): place for key, place in places.items()},
    )
