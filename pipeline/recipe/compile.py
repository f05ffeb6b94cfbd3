"""From the list of steps that people write to the mapping that Hydra composes.

    steps:                                  defaults:
      - load_base: {preset: nf4, model: m}    - config
      - merge                        ->       - step/load_base/default@steps.load_base
                                              - step/load_base@steps.load_base: nf4
                                              - ...
                                              - _self_
                                            steps: {load_base: {model: m}, merge: {}}

Mistakes of form are collected on the way; what is left out because of one is not compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import Place, Problem
from pipeline.recipe.yaml_file import Document, Path_
from pipeline.steps import Step, all_steps, find_step, nearest

TOP_KEYS = ("name", "params", "steps", "engine", "device", "seed", "tags")
"""All that a recipe can set."""
COMMAND_LINE_KEYS = ("tracking", "workers")
"""What belongs to one run of it, and changes no byte of what it makes."""
RESERVED = (*TOP_KEYS, *COMMAND_LINE_KEYS, "run", "branch", "hydra", "step", "defaults")
"""Names that a step's id cannot take, because on the command line they mean something else."""
NO_PRESET = "default"
FOR_EACH = "for_each"
"""What any step may have beside its options."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RECIPE_NAME = re.compile(r"[\w][\w.-]*")


@dataclass(frozen=True)
class Line:
    """One item of the list of steps."""

    id: str
    step: Step[Any]
    preset: str
    options: Mapping[str, Any]
    path: Path_
    """Where its options stand in the document."""
    place: Place


@dataclass(frozen=True)
class Compiled:
    """A recipe file, understood as far as it can be."""

    document: Document
    head: Mapping[str, Any]
    """Everything but the steps."""
    lines: tuple[Line, ...]
    problems: tuple[Problem, ...] = ()
    unknown: Mapping[int, str | None] = field(default_factory=dict)
    """Positions in `lines` before which a step stands whose name is not known, and the likely name."""
    open_ids: frozenset[str] = frozenset()
    """Ids that the steps in `unknown` may have, without the number that a second one would get."""

    def line(self, id: str) -> Line | None:
        return next((line for line in self.lines if line.id == id), None)

    def may_have(self, id: str) -> bool:
        """Whether a step that was not understood may be the one of this id."""
        if not self.lines:
            return bool(self.unknown)
        return id in self.open_ids or re.sub(r"_\d+$", "", id) in self.open_ids

    def primary(self) -> dict[str, Any]:
        """The primary config, for Hydra."""
        defaults: list[Any] = ["config"]
        for line in self.lines:
            group = f"step/{line.step.name}"
            defaults.append(f"{group}/{NO_PRESET}@steps.{line.id}")
            defaults.append({f"{group}@steps.{line.id}": line.preset})
        steps = {line.id: dict(line.options) for line in self.lines}
        return {"defaults": [*defaults, "_self_"], **self.head, "steps": steps}


def compile_recipe(document: Document, name: str) -> Compiled:
    """Check the form of a recipe. `name` is what it is called unless it says so itself."""
    problems = [_as_typed(problem) for problem in document.problems]
    if not document.data:
        if not problems:
            problems.append(Problem("the recipe is empty", _HOW, place=Place(document.file)))
        return Compiled(document, {"name": name, "params": {}}, (), tuple(problems), {0: None})
    data = _cleaned(document.data, (), document, problems)
    head: dict[str, Any] = {"name": name, "params": {}}
    for key, value in data.items():
        place = document.place((key,))
        if key not in TOP_KEYS:
            problems.append(_unknown_key(key, place))
        elif key == "params" and not isinstance(value, Mapping | None):
            problems.append(Problem("must be a mapping of names to values", None, "params", place))
        elif key != "steps" and value is not None:
            head[key] = value
    if not (isinstance(head["name"], str) and _RECIPE_NAME.fullmatch(head["name"])):
        what = f"must be a plain name (letters, digits, `_`, `-`, `.`), got {head['name']!r}"
        fix = None if "name" in data else "rename the file, or give the recipe a `name`"
        problems.append(Problem(what, fix, "name", document.place(("name",))))
        head["name"] = "unnamed"
    listed = data.get("steps")
    lines, unknown = _lines(listed, document, problems)
    return Compiled(
        document, head, lines, tuple(problems), unknown, _open_ids(listed, lines, unknown)
    )


def _lines(
    listed: Any, document: Document, problems: list[Problem]
) -> tuple[tuple[Line, ...], dict[int, str | None]]:
    place = document.place(("steps",))
    if isinstance(listed, Mapping):
        problems.append(
            Problem(
                "must be a list: the steps run in order",
                "write `- ` before each step",
                "steps",
                place,
            )
        )
        return (), {0: None}
    if listed is not None and not isinstance(listed, list):
        problems.append(Problem(f"must be a list, got {listed!r}", _HOW, "steps", place))
        return (), {0: None}
    if not listed:
        problems.append(Problem("the recipe has no steps", _HOW, place=place))
        return (), {0: None}
    items: list[_Item] = []
    unknown: dict[int, str | None] = {}
    for position, raw in enumerate(listed):
        path: Path_ = ("steps", position)
        item = _item(raw, path, document, problems)
        if isinstance(item, _Item):
            items.append(item)
        else:
            unknown[len(items)] = item
    return tuple(_named(items, problems)), unknown


def _open_ids(
    listed: Any, lines: Sequence[Line], unknown: Mapping[int, str | None]
) -> frozenset[str]:
    """What the steps that were not understood call themselves, and what they seem to be."""
    understood = {line.path[1] for line in lines}
    names = {name for name in unknown.values() if name}
    for position, raw in enumerate(listed if isinstance(listed, list) else ()):
        if position in understood:
            continue
        if isinstance(raw, str):
            names.add(raw)
        elif isinstance(raw, Mapping):
            names.update(raw)
            names.update(
                options["id"]
                for options in raw.values()
                if isinstance(options, Mapping) and isinstance(options.get("id"), str)
            )
    return frozenset(names)


@dataclass(frozen=True)
class _Item:
    step: Step[Any]
    preset: str
    id: str | None
    options: Mapping[str, Any]
    path: Path_
    place: Place


def _item(raw: Any, path: Path_, document: Document, problems: list[Problem]) -> _Item | str | None:
    """One step of the list; or, when it cannot be understood, the name of the step that may be meant."""
    place = document.place(path)
    if isinstance(raw, str):
        name, value = raw, None
    elif isinstance(raw, Mapping) and len(raw) == 1:
        name, value = next(iter(raw.items()))
        path = (*path, name)
        place = document.place(path)
    elif isinstance(raw, Mapping) and raw:
        first, *others = raw
        fix = f"indent {_words(others)} further than `{first}`, or write `- ` before each step"
        problems.append(
            Problem(f"one item of the list has several keys: {_words(raw)}", fix, None, place)
        )
        return first if find_step(first) else None
    else:
        what = "an empty item" if raw in (None, {}, []) else f"{raw!r} is not the name of a step"
        problems.append(Problem(what, _HOW, place=place))
        return None
    step = find_step(name)
    if step is None:
        known = all_steps()
        near = nearest(name, known)
        fix = near or f"the steps are {', '.join(known)}"
        problems.append(Problem(f"there is no step {name!r}", fix, place=place))
        return near.split("'")[1] if near else None
    if value is None:
        return _Item(step, NO_PRESET, None, {}, path, place)
    if isinstance(value, str):
        return _Item(step, _preset(value, name, place, problems), None, {}, path, place)
    if not isinstance(value, Mapping):
        what = f"takes a preset or a mapping of options, got {value!r}"
        problems.append(Problem(what, f"`mergeline steps {name}` lists them", name, place))
        return name
    return _with_options(step, dict(value), path, document, problems)


def _with_options(
    step: Step[Any],
    options: dict[str, Any],
    path: Path_,
    document: Document,
    problems: list[Problem],
) -> _Item:
    preset, id = options.pop("preset", None), options.pop("id", None)
    if id is not None:
        what = None
        if not isinstance(id, str) or not _NAME.fullmatch(id):
            what = f"must be a plain name (letters, digits, `_`), got {id!r}"
        elif id in RESERVED:
            what = f"{id!r} cannot be the id of a step: on the command line it means something else"
        if what:
            problems.append(
                Problem(what, "choose another", f"{step.name}.id", document.place((*path, "id")))
            )
            id = None
    chosen = NO_PRESET
    if preset is not None:
        chosen = _preset(preset, step.name, document.place((*path, "preset")), problems)
    return _Item(step, chosen, id, options, path, document.place(path))


def _preset(value: Any, step: str, place: Place, problems: list[Problem]) -> str:
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+", value):
        return value
    what = f"a preset is a plain name, got {value!r}"
    problems.append(
        Problem(what, f"`mergeline steps {step}` lists its presets", f"{step}.preset", place)
    )
    return NO_PRESET


def _named(items: list[_Item], problems: list[Problem]) -> Iterator[Line]:
    """Give each step an id: its own, or its name, or `<name>_2`, ..."""
    taken: dict[str, Place] = {}
    for item in items:
        if item.id is not None and item.id in taken:
            what = f"two steps have the id {item.id!r}; the first is in line {taken[item.id].line}"
            problems.append(
                Problem(what, "give one of them another `id`", f"{item.id}.id", item.place)
            )
        elif item.id is not None:
            taken[item.id] = item.place
    given: set[str] = set()
    for item in items:
        id = item.id
        if id is None or id in given:
            id, count = item.step.name, 1
            while id in taken or id in given:
                count += 1
                id = f"{item.step.name}_{count}"
        given.add(id)
        yield Line(id, item.step, item.preset, item.options, item.path, item.place)


def _cleaned(value: Any, path: Path_, document: Document, problems: list[Problem]) -> Any:
    """A value without what Hydra must not see: keys that name code, interpolations it cannot read."""
    if isinstance(value, Mapping):
        kept = {}
        for key, child in value.items():
            if re.fullmatch(r"_\w+_", key):
                what = f"{key!r} is not allowed: a recipe cannot name code"
                at = (*path, key)
                problems.append(Problem(what, "remove it", _dotted(at), document.place(at)))
            else:
                kept[key] = _cleaned(child, (*path, key), document, problems)
        return kept
    if isinstance(value, list):
        return [_cleaned(child, (*path, i), document, problems) for i, child in enumerate(value)]
    if isinstance(value, str) and "${" in value and not _readable(value):
        what = f"{value!r} has an interpolation that cannot be read"
        fix = "it is written ${params.name}; for a plain dollar sign, write \\${"
        problems.append(Problem(what, fix, _dotted(path), document.place(path)))
        return value.replace("${", "$")
    return value


def _readable(text: str) -> bool:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.create({"value": text})
    except OmegaConfBaseException:
        return False
    return True


def _dotted(path: Path_) -> str:
    """A path as a key of the command line: `steps.0.save.dtype` is `save.dtype`."""
    return re.sub(r"^steps\.\d+\.", "", ".".join(str(part) for part in path))


def _as_typed(problem: Problem) -> Problem:
    return replace(problem, key=_dotted((problem.key,))) if problem.key else problem


def _unknown_key(key: str, place: Place) -> Problem:
    fixes = {
        "hydra": "give Hydra's settings on the command line, for example hydra.run.dir=DIR",
        **{key: f"give it on the command line: {key}=..." for key in COMMAND_LINE_KEYS},
        "run": "give the run's folder on the command line: hydra.run.dir=DIR",
        "defaults": "pick presets in the steps: `- load_base: nf4`",
    }
    what = (
        f"a recipe cannot set {key!r}" if key in fixes else f"there is no key {key!r} in a recipe"
    )
    if find_step(key):
        fix: str | None = "write it in the list `steps`, with `- ` before it"
    else:
        fix = fixes.get(key) or nearest(key, TOP_KEYS) or f"a recipe can set {', '.join(TOP_KEYS)}"
    return Problem(what, fix, None, place)


def _words(keys: Any) -> str:
    return ", ".join(f"`{key}`" for key in keys)


_HOW = "list them under `steps:`, for example `- load_base: {model: ./base}`"
