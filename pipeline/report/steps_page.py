"""The reference of every step as a page of Markdown, from the registry.

`make docs` writes it to docs/steps.md; a test holds the committed page against it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.recipe.presets import about_preset, shipped_presets
from pipeline.report.catalog import option_rows
from pipeline.steps import Step, all_steps

_HEAD = """\
# Steps

Written by `make docs` from `pipeline/steps/` and `conf/step/`; do not edit. `mergeline steps NAME` prints
the same on the terminal. How options and presets are written is in [recipes.md](recipes.md), how a step is
made in [adding-a-step.md](adding-a-step.md).

A recipe is refused when a step *needs* what no step before it *makes*.
"""


def steps_page() -> str:
    """The whole page."""
    steps = all_steps()
    overview = _table(
        ("step", "what it does"),
        [(f"[`{name}`](#{name})", _cell(step.summary)) for name, step in steps.items()],
    )
    return "\n".join([_HEAD, overview, *map(_section, steps.values())])


def _section(step: Step[Any]) -> str:
    relations = [
        f"{word}: {', '.join(sorted(things))}."
        for word, things in (("Needs", step.needs), ("Makes", step.makes))
        if things
    ]
    options = [
        (
            f"`{name}`",
            _cell(kind),
            f"`{default}`" if default != "required" else default,
            _cell(about),
        )
        for name, kind, default, about in option_rows(step)
    ]
    parts = [f"## {step.name}\n", f"{step.doc}\n", " ".join(relations) + "\n"]
    parts.append(_table(("option", "type", "default", "meaning"), options))
    presets = [
        (f"`{preset}`", _cell(about_preset(step.name, preset)))
        for preset in shipped_presets(step.name)
    ]
    if presets:
        parts.append(_table(("preset", "what it is for"), presets))
    return "\n".join(parts)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(steps_page(), encoding="utf-8")
