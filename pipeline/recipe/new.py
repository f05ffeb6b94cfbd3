"""Write the recipe that a person starts from."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.recipe.schema import schema_text

SCHEMA_FILE = "recipe.schema.json"

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# {name} - merge an adapter into its base
#
{commands}

# Your own values, used below as ${{params.<name>}}.
params:
  base: ./base            # a folder, or a model id on the Hugging Face Hub
  adapter: ./adapter

# The steps run in this order. A bare name takes the defaults; `name: preset` takes a preset.
steps:
  # `preset: nf4` loads the base in 4 bits, as QLoRA trains. Leave it out for a plain LoRA, and with it
  # the step `dequantize`.
  - load_base: {{preset: nf4, model: "${{params.base}}"}}
  - attach_adapter: {{path: "${{params.adapter}}"}}
  # Merging needs full precision.
  - dequantize
  - merge
  # ${{run.dir}} is this run's own folder, outputs/<recipe>/<time>-<fingerprint>.
  - save: {{path: "${{run.dir}}/merged"}}
  # Load the saved folder without PEFT and compare it with base + adapter.
  - verify

# What else a recipe can set:
# seed: 0
# device: auto            # auto, cpu, cuda, cuda:1, mps
# engine: auto            # auto, stream, live
# tags: [first-try]
"""


_COMMANDS = (
    ("plan {name}", "check it and see what it would do"),
    ("run {name}", "run it"),
    ("run {name} params.adapter=./other", "with something changed"),
    ("steps", "what else there is to do"),
)


def write_recipe(name: str) -> Path:
    """Write `./recipes/<name>.yaml`, with the JSON Schema for editors beside it. Raises RecipeError."""
    name = name.removesuffix(".yaml")
    if not re.fullmatch(r"\w[\w.-]*", name):
        what = f"{name!r} is not a plain name (letters, digits, `_`, `-`, `.`)"
        raise RecipeError([Problem(what, "choose another", place=COMMAND_LINE)])
    path = Path("recipes") / f"{name}.yaml"
    if path.exists():
        problem = Problem(f"{path} is there already", "choose another name", place=COMMAND_LINE)
        raise RecipeError([problem])
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_text(name))
        (path.parent / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        what = f"{path} cannot be written: {error.strerror}"
        raise RecipeError([Problem(what, place=COMMAND_LINE)]) from error
    return path


def _text(name: str) -> str:
    commands = [(f"mergeline {words.format(name=name)}", about) for words, about in _COMMANDS]
    width = max(len(command) for command, _ in commands)
    lines = [f"#   {command:{width}}   {about}" for command, about in commands]
    return _TEMPLATE.format(name=name, schema=SCHEMA_FILE, commands="\n".join(lines))
