"""The arguments that verbs share: a recipe and its overrides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import memory

if TYPE_CHECKING:
    from pipeline.recipe.hydra_app import Request

DONE, FAILED, WRONG, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141
"""Exit codes."""

RUN_ABOUT = """\
RECIPE is a path to a file, a name in ./recipes, or the name of a shipped recipe.

overrides name the step:
  save.dtype=float16            an option of a step
  load_base=nf4                 a preset of a step
  params.base=./my_model        a value that the recipe refers to
  seed=3, device=cpu, engine=live, tracking=tensorboard
  workers=ray                   who writes the weights: the machines of a Ray cluster
  hydra.run.dir=DIR             the run's folder; by default outputs/<recipe>/<time>-<fingerprint>
                                (a DIR that holds an earlier run is used again: its manifest is replaced,
                                its log continued, and models in it are kept unless a step says overwrite)
  'generate.prompts=["Hi, you"]'  text with commas or brackets is quoted twice
"""


def parser_of(verb: str, about: str, **more: str) -> argparse.ArgumentParser:
    """A parser for the words after a verb."""
    return argparse.ArgumentParser(
        prog=f"mergeline {verb}",
        description=about,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=more.get("epilog"),
    )


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, its overrides, and where more presets are."""
    parser.add_argument("recipe", metavar="RECIPE", help="path or name of a recipe")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="what to change in it"
    )
    parser.add_argument(
        "--config-dir",
        "-cd",
        type=Path,
        metavar="DIR",
        help="a folder with presets of your own, as step/STEP/NAME.yaml",
    )


def request_of(args: argparse.Namespace) -> Request:
    """What those arguments ask for. Raises RecipeError when there is no such recipe."""
    with memory.collecting_nothing():
        from pipeline.recipe.find import find_recipe
        from pipeline.recipe.hydra_app import Request

    words = [args.recipe, *args.overrides]
    recipe = next(
        (word for word in words if "=" not in word and not word.startswith("~")), words[0]
    )
    words.remove(recipe)
    return Request(find_recipe(recipe), tuple(words), args.config_dir)
