"""The JSON Schema of a recipe, from the settings of the steps; for editors."""

from __future__ import annotations

import functools
import json
from typing import Any

from pydantic import TypeAdapter

from pipeline.documented import Documented
from pipeline.recipe.compile import FOR_EACH, NO_PRESET, TOP_KEYS
from pipeline.recipe.head import Head
from pipeline.recipe.presets import shipped_presets
from pipeline.steps import Step, all_steps, options_of

_INTERPOLATION = {"type": "string", "pattern": r"\$\{.+\}"}


def schema_text() -> str:
    """The schema as it is committed beside the shipped recipes."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


@functools.cache
def recipe_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe file.

    Every option may also be an interpolation. None is required, for a preset or the command line may
    give what the file does not.
    """
    head = _properties(Head)
    properties = {key: head[key] for key in TOP_KEYS if key != "steps"}
    properties["params"] = {**properties["params"], "type": ["object", "null"]}
    steps = all_steps()
    bare = [{"const": name, "description": step.doc} for name, step in steps.items()]
    full = {
        "type": "object",
        "properties": {name: _step(step) for name, step in steps.items()},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    properties["steps"] = {
        "description": "What to do, in this order.",
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [*bare, full]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mergeline recipe",
        "type": "object",
        "required": ["steps"],
        "properties": {key: properties[key] for key in TOP_KEYS},
        "additionalProperties": False,
    }


def _step(step: Step[Any]) -> dict[str, Any]:
    presets = shipped_presets(step.name)
    preset = {
        "type": "string",
        "description": "Settings to start from: a file of the folder step/" + step.name + ".",
        "examples": [NO_PRESET, *presets],
    }
    id = {
        "type": "string",
        "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
        "description": "What to call this step in overrides and results; by default its name.",
    }
    for_each = {
        "description": "Part the recipe into branches here: a pattern of folders, a list of values, or a "
        "mapping from the branch's name to its value. A value of several options is a mapping.",
        "type": ["string", "array", "object"],
        "examples": ["adapters/*"],
    }
    options = {
        name: _or_interpolation(schema) for name, schema in _properties(step.settings).items()
    }
    mapping = {
        "type": "object",
        "properties": {"preset": preset, "id": id, FOR_EACH: for_each, **options},
        "additionalProperties": False,
    }
    named: list[Any] = [{"type": "string", "examples": presets}] if presets else []
    return {"description": step.doc, "anyOf": [mapping, *named, {"type": "null"}]}


def _properties(settings: Any) -> dict[str, Any]:
    """The schema of each option, with nothing left to look up elsewhere."""
    whole = TypeAdapter(settings).json_schema(schema_generator=Documented)
    shared = whole.get("$defs", {})
    return {name: _inlined(whole["properties"][name], shared) for name in options_of(settings)}


def _inlined(schema: Any, shared: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return _inlined(
                {**shared[name], **{k: v for k, v in schema.items() if k != "$ref"}}, shared
            )
        return {key: _inlined(value, shared) for key, value in schema.items() if key != "title"}
    if isinstance(schema, list):
        return [_inlined(item, shared) for item in schema]
    return schema


def _or_interpolation(schema: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {
        key: schema[key] for key in ("description", "default", "examples") if key in schema
    }
    kind = {key: value for key, value in schema.items() if key not in about}
    if isinstance(kind.get("items"), dict):
        kind["items"] = _or_interpolation(kind["items"])
    if isinstance(kind.get("additionalProperties"), dict):
        kind["additionalProperties"] = _or_interpolation(kind["additionalProperties"])
    choices = kind["anyOf"] if set(kind) == {"anyOf"} else [kind]
    return {**about, "anyOf": [*choices, _INTERPOLATION]}
