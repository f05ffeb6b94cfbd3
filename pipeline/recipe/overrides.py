"""What is said on the command line: `save.dtype=float16`, `load_base=nf4`, `params.base=...`.

Each override is read with Hydra's own parser, held against the recipe, and turned into Hydra's form
(`steps.save.dtype=float16`, `step/load_base@steps.load_base=nf4`). What is in that form already stays.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException

from pipeline.errors import COMMAND_LINE, Problem
from pipeline.recipe.compile import (
    COMMAND_LINE_KEYS,
    FOR_EACH,
    RESERVED,
    TOP_KEYS,
    Compiled,
    Line,
)
from pipeline.steps import all_steps, find_step, nearest, options_of

Presets = Callable[[str], Sequence[str]]
"""The names in a config group, for example `step/load_base`; none when there is no such group."""

HEAD_KEYS = (*(key for key in TOP_KEYS if key != "steps"), *COMMAND_LINE_KEYS)


@dataclass(frozen=True)
class Said:
    """One override, found right as far as it can be judged without composing."""

    typed: str
    """As the user wrote it."""
    text: str
    """For Hydra."""
    key: str
    """Dotted, without `steps.`: `save.dtype`, `params.base`, `hydra.run.dir`; of a preset, the step's id."""
    value: Any
    preset: bool = False
    sweep: bool = False


class _Wrong(Exception):
    def __init__(self, what: str, fix: str | None = None, key: str | None = None) -> None:
        super().__init__(what)
        self.problem = Problem(what, fix, key, COMMAND_LINE)


def read_overrides(
    overrides: Iterable[str], compiled: Compiled, presets: Presets, *, multirun: bool = False
) -> tuple[list[Said], list[Problem]]:
    """Understand the overrides of a command line; in a multirun, values may be lists of choices."""
    said, problems = [], []
    for typed in overrides:
        try:
            parsed = _parse(typed)
            if parsed.is_sweep_override() and not multirun:
                raise _several(parsed)
            understood = _understand(parsed, typed, compiled, presets)
            if understood is not None:
                said.append(understood)
        except _Wrong as wrong:
            problems.append(wrong.problem)
    return said, problems


def _parse(typed: str) -> Override:
    parser = OverridesParser.create()
    try:
        parsed: Override = parser.parse_overrides([typed])[0]
    except (HydraException, ValueError) as error:
        key, equals, value = typed.partition("=")
        if not equals:
            fix = f"write {typed}=VALUE"
            raise _Wrong(f"{typed!r} is not of the form key=value", fix) from error
        if re.fullmatch(r"""[^,(){}\[\]'"\\][^,(){}\[\]"\\]*""", value):
            # Hydra's grammar takes a plain value only of certain characters; any text is meant as text.
            with contextlib.suppress(OverrideParseException):
                return _parse_quoted(parser, key, value)
        fix = f"""quote the value once more: '{key}="..."'"""
        raise _Wrong(f"{typed!r} cannot be read", fix) from error
    if not parsed.key_or_group:
        raise _Wrong(f"{typed!r} has no key before the `=`", "write key=value")
    return parsed


def _parse_quoted(parser: OverridesParser, key: str, value: str) -> Override:
    parsed: Override = parser.parse_overrides([f'{key}="{value}"'])[0]
    return parsed


def _several(parsed: Override) -> _Wrong:
    head, _, value = (parsed.input_line or "").partition("=")
    fix = f"add -m to run once for each; for one text write '{head}=\"{value}\"', for a list {head}=[{value}]"
    return _Wrong("has several values", fix, head)


def _understand(parsed: Override, typed: str, compiled: Compiled, presets: Presets) -> Said | None:
    """None when the override is about a step whose own line in the recipe is wrong."""
    key: str = parsed.key_or_group
    head, equals, value = (parsed.input_line or typed).partition("=")
    sweep = parsed.is_sweep_override()
    content = None if sweep or parsed.is_delete() else parsed.value()
    _refuse_code(key, content)
    if key == "hydra.searchpath":
        _check_searchpath(content)
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return Said(typed, f"{head}{equals}{value}", key, content, sweep=sweep)
    if "/" in key or parsed.package is not None:
        return _group(parsed, typed, content, compiled, presets)
    parts = key.split(".")
    if parts[0] == "run":
        raise _Wrong("cannot be set", "write hydra.run.dir=DIR", key)
    if parts[0] in HEAD_KEYS:
        _check_head(parts, parsed, compiled)
        return Said(typed, f"{head}{equals}{value}", key, content, sweep=sweep)
    if key == "steps":
        raise _Wrong(
            "the list of steps can only be changed in the recipe", "~ID leaves a step out", key
        )
    if parts[0] == "steps":
        parts = parts[1:]
    line = compiled.line(parts[0]) if parts else None
    if line is None:
        if parsed.is_add() and presets(key):
            return Said(typed, f"{head}{equals}{value}", key, content, preset=True, sweep=sweep)
        if compiled.may_have(parts[0]):
            return None
        raise _no_step(key, compiled)
    plain = ".".join(parts)
    if len(parts) == 1 and not parsed.is_delete():
        if sweep or isinstance(content, str):
            _check_preset(line, content, presets)
            text = f"step/{line.step.name}@steps.{line.id}={value}"
            return Said(typed, text, line.id, content, preset=True, sweep=sweep)
        if not isinstance(content, Mapping):
            raise _Wrong(f"takes a preset, got {content!r}", _options_of(line), key)
        for name in content:
            _check_option(line, str(name))
        return Said(typed, f"++steps.{plain}={value}", plain, content)
    if len(parts) > 1:
        _check_option(line, parts[1])
    # `++` where Hydra would refuse what is right: a new key, also inside an option that is a mapping.
    added = (
        len(parts) > 2
        or parts[1:] == [FOR_EACH]
        or isinstance(content, Mapping)
        or parsed.is_add()
        or parsed.is_force_add()
    )
    prefix = "~" if parsed.is_delete() else "++" if added else ""
    return Said(typed, f"{prefix}steps.{plain}{equals}{value}", plain, content, sweep=sweep)


def _group(
    parsed: Override, typed: str, content: Any, compiled: Compiled, presets: Presets
) -> Said | None:
    """`step/merge@steps.merge=ties`, Hydra's own way to choose a preset."""
    key, package = parsed.key_or_group, parsed.package
    _, equals, value = (parsed.input_line or typed).partition("=")
    folder, _, name = key.partition("/")
    if folder != "step":
        if presets(key):
            return Said(typed, parsed.input_line or typed, key, content, preset=True)
        raise _Wrong(f"there are no presets of {key!r}", "presets are chosen as STEP=PRESET", key)
    if find_step(name) is None:
        near = nearest(name, all_steps())
        raise _Wrong(f"there is no step {name!r}", near or "`mergeline steps` lists them", key)
    lines = [line for line in compiled.lines if line.step.name == name]
    if package is not None:
        lines = [line for line in lines if package == f"steps.{line.id}"]
    if len(lines) != 1:
        if compiled.unknown:
            return None
        ids = ", ".join(line.id for line in compiled.lines)
        raise _Wrong(
            "means no one step of the recipe", f"write ID={value}; the ids are {ids}", typed
        )
    if parsed.type is OverrideType.DEL:
        raise _Wrong(
            "a step's presets cannot be removed", f"~{lines[0].id} leaves the step out", key
        )
    _check_preset(lines[0], content, presets)
    text = f"{key}@steps.{lines[0].id}{equals}{value}"
    sweep = parsed.is_sweep_override()
    return Said(typed, text, lines[0].id, content, preset=True, sweep=sweep)


def _check_head(parts: list[str], parsed: Override, compiled: Compiled) -> None:
    key = ".".join(parts)
    if parsed.is_delete() and len(parts) == 1:
        raise _Wrong("cannot be taken away", f"give it a value: {key}=VALUE", key)
    if parts[0] != "params":
        if len(parts) > 1:
            raise _Wrong("there is no such key", nearest(key, HEAD_KEYS), key)
        return
    if parsed.is_add() or parsed.is_force_add() or len(parts) == 1:
        return
    if not compiled.lines or any(problem.key == "params" for problem in compiled.problems):
        return
    known: Any = compiled.head["params"]
    for depth, part in enumerate(parts[1:], start=1):
        if not isinstance(known, Mapping) or part not in known:
            above = ".".join(parts[:depth])
            names = [f"{above}.{name}" for name in known] if isinstance(known, Mapping) else []
            what = f"the recipe has no {key!r}"
            fix = nearest(key, names) or (
                f"it has {', '.join(names)}" if names else f"`{above}` has none"
            )
            raise _Wrong(what, fix, key)
        known = known[part]


def _check_searchpath(folders: Any) -> None:
    """Hydra only warns of a folder that is not there."""
    for folder in folders if isinstance(folders, list) else []:
        path = str(folder).removeprefix("file://")
        if "://" not in path and not Path(path).is_dir():
            raise _Wrong(f"there is no folder {path}", None, "hydra.searchpath")


def _check_option(line: Line, name: str) -> None:
    known = [*options_of(line.step.settings), FOR_EACH]
    key = f"{line.id}.{name}"
    if name == "preset":
        raise _Wrong("a preset is chosen by the step's id alone", f"write {line.id}=PRESET", key)
    if name == "id":
        raise _Wrong("the id of a step can only be given in the recipe", None, key)
    if name not in known:
        what = f"`{line.step.name}` has no option {name!r}"
        raise _Wrong(what, nearest(name, known) or _options_of(line), key)


def _check_preset(line: Line, value: Any, presets: Presets) -> None:
    if value is None:  # of a sweep; each job is checked by itself
        return
    problem = preset_problem(line, str(value), presets)
    if problem is not None:
        raise _Wrong(problem.what, problem.fix, line.id)


def preset_problem(line: Line, preset: str, presets: Presets) -> Problem | None:
    """What is wrong with choosing this preset for a step."""
    known = presets(f"step/{line.step.name}")
    if preset in known:
        return None
    fix = nearest(preset, known) or f"it has {', '.join(known)}"
    return Problem(f"`{line.step.name}` has no preset {preset!r}", fix, line.id)


def _no_step(key: str, compiled: Compiled) -> _Wrong:
    name = key.removeprefix("steps.").partition(".")[0]
    ids = [line.id for line in compiled.lines]
    known = [*ids, *(k for k in RESERVED if k in HEAD_KEYS)]
    what = f"the recipe has no step {name!r}"
    if find_step(name) is None:
        what = f"there is no step or key {name!r} in the recipe"
    same = [line.id for line in compiled.lines if line.step.name == name]
    fix = f"did you mean {same[0]!r}?" if same else nearest(name, known)
    return _Wrong(what, fix or f"it has {', '.join(known)}", key)


def _options_of(line: Line) -> str:
    return f"`mergeline steps {line.step.name}` lists its options and presets"


def _refuse_code(key: str, value: Any) -> None:
    names = re.split(r"[./@]", key)
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            names += [str(name) for name in item]
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    for name in names:
        if re.fullmatch(r"_\w+_", name):
            raise _Wrong(f"{name!r} is not allowed: a recipe cannot name code", "remove it", key)
