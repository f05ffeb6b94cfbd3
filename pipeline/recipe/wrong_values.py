"""Pydantic's errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.errors import Problem
from pipeline.steps import nearest, options_of

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}

Loc = tuple[str | int, ...]


def explain(error: ValidationError, values: Any, settings: Any) -> list[tuple[Loc, Problem]]:
    """Where in `values`, for a settings class, something is wrong, and what.

    The members of a union are told as one.
    """
    grouped: dict[Loc, list[Mapping[str, Any]]] = {}
    for entry in error.errors(include_url=False):
        grouped.setdefault(_path(entry, values), []).append(dict(entry))
    return [(path, _problem(path, entries, settings)) for path, entries in grouped.items()]


def _path(entry: Mapping[str, Any], values: Any) -> Loc:
    """The location without the parts that name members of a union rather than keys of the data."""
    path: list[str | int] = []
    at = values
    for part in entry["loc"]:
        if _has(at, part):
            at = at[part]
        elif entry["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            pass
        else:
            continue
        path.append(part)
    return tuple(path)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _problem(path: Loc, entries: list[Mapping[str, Any]], settings: Any) -> Problem:
    known = options_of(settings)
    first = entries[0]
    kind = first["type"]
    if kind.startswith("missing"):
        return Problem("is required, but has no value")
    if kind.startswith("unexpected") or kind == "extra_forbidden":
        name = str(path[-1])
        fix = nearest(name, known) or f"the options are {', '.join(known)}"
        return Problem(f"there is no option {name!r}", fix)
    value = first["input"]
    choices = [choice for entry in entries for choice in _choices(entry)]
    wanted = [text for entry in entries if not _choices(entry) for text in [_wanted(entry)]]
    if choices:
        wanted.insert(0, f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
    examples = known[str(path[0])].examples if kind == "string_pattern_mismatch" else None
    if examples:
        wanted = [f"text such as {', '.join(examples)}"]
    kept = list(dict.fromkeys(wanted))
    what = f"must be {' or '.join(kept)}, got {_shown(value)}"
    near = nearest(value, choices) if isinstance(value, str) else None
    return Problem(what, near or _hint(first["type"], kept, value, choices))


def _wanted(entry: Mapping[str, Any]) -> str:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind in _WANTED:
        return _WANTED[kind]
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"{word} {context[name]:g}"
    if kind == "too_short":
        return f"a list of {context['min_length']} or more"
    if kind == "too_long":
        return f"a list of {context['max_length']} or fewer"
    if kind == "string_too_short":
        return f"text of {context['min_length']} or more characters"
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern'].strip('^$')}"
    message: str = entry["msg"]
    return re.sub(r"^(Input should be|Value error,) ", "", message)


def _choices(entry: Mapping[str, Any]) -> list[str]:
    if entry["type"] != "literal_error":
        return []
    return re.findall(r"'([^']*)'", entry["ctx"]["expected"])


def _hint(kind: str, wanted: list[str], value: Any, choices: list[str]) -> str | None:
    if "text" in wanted and isinstance(value, bool | int | float):
        return "for text, write it in quotes"
    if (
        choices
        and isinstance(value, bool)
        and any(c in ("no", "off", "yes", "on") for c in choices)
    ):
        return "YAML reads it as true or false; write it in quotes"
    if isinstance(value, str) and value.lower() in ("true", "false") and "true or false" in wanted:
        return "write it without quotes"
    if (
        isinstance(value, str)
        and re.fullmatch(r"[-+]?\d+(\.\d+)?", value)
        and "number" in wanted[0]
    ):
        return "write it without quotes"
    if any(text.startswith("a list") for text in wanted) and not isinstance(value, list):
        return f"write [{_shown(value)}]"
    return None


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
