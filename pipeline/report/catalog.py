"""Tables of what there is: recipes, steps, and the options of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.recipe.defaults import REQUIRED, defaults_of
from pipeline.recipe.find import list_recipes
from pipeline.recipe.presets import about_preset, shipped_presets
from pipeline.report.output import standard_output
from pipeline.steps import Step, all_steps, nearest

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_PIPES = 160
"""Into a pipe or a file, lines are as long as they are."""


def print_recipes() -> None:
    """The recipes that have a name, and what each is for."""
    rows = [
        (found.name, found.about, "shipped" if found.shipped else str(found.path))
        for found in list_recipes()
    ]
    _print_table(("recipe", "what for", "where"), rows)


def print_steps() -> None:
    """Every step in a line."""
    rows = [
        (name, step.summary, ", ".join(shipped_presets(name))) for name, step in all_steps().items()
    ]
    _print_table(("step", "what it does", "presets"), rows)


def print_step(name: str) -> None:
    """One step: what it does, its options with types and defaults, and its presets."""
    steps = all_steps()
    if name not in steps:
        fix = nearest(name, steps) or f"the steps are {', '.join(steps)}"
        raise RecipeError([Problem(f"there is no step {name!r}", fix, place=COMMAND_LINE)])
    step = steps[name]
    console = standard_output(WIDTH_OF_PIPES)
    console.print(f"[bold]{name}[/bold]")
    console.print(f"\n{step.doc}\n", markup=False, highlight=False)
    if step.needs:
        console.print(f"needs  {', '.join(sorted(step.needs))}", highlight=False)
    if step.makes:
        console.print(f"makes  {', '.join(sorted(step.makes))}", highlight=False)
    _print_table(("option", "type", "default", ""), option_rows(step), console)
    presets = [(preset, about_preset(name, preset)) for preset in shipped_presets(name)]
    if presets:
        _print_table(("preset", ""), presets, console)


def option_rows(step: Step[Any]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and documentation of each option of a step."""
    from pydantic import TypeAdapter

    from pipeline.documented import Documented

    schema = TypeAdapter(step.settings).json_schema(schema_generator=Documented)
    rows = []
    for name, value in defaults_of(step).items():
        shape = schema["properties"][name]
        default = "required" if value == REQUIRED else _shown(value)
        about = " ".join(shape.get("description", "").split())
        rows.append((name, type_words(shape), default, about))
    return rows


def type_words(schema: dict[str, Any]) -> str:
    """A JSON Schema as words: `whole number, at least 1`."""
    if "anyOf" in schema:
        return _alternatives(schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {type_words(schema.get('items', {}))}"
    if kind == "object":
        return "mapping"
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true, false",
    }
    words = [names.get(str(kind), "null" if kind == "null" else "anything")]
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    words += [f"{word} {schema[name]}" for name, word in bounds.items() if name in schema]
    return ", ".join(words)


def _alternatives(parts: Sequence[dict[str, Any]]) -> str:
    """Words to choose from in one list, other types after it: `auto, float32 or null`."""
    words = [type_words(part) for part in parts if "enum" in part or "const" in part]
    others = [type_words(part) for part in parts if "enum" not in part and "const" not in part]
    return " or ".join(dict.fromkeys([*([", ".join(words)] if words else []), *others]))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for first, *others in rows:
        table.add_row(Text(first, "bold"), *(Text(text) for text in others))
    (console or standard_output(WIDTH_OF_PIPES)).print(table)
