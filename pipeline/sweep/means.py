"""With what a sweep is run, as the command line says it."""

from __future__ import annotations

import argparse
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.steps import nearest
from pipeline.sweep.launchers import LAUNCHERS, launcher_of
from pipeline.sweep.resources import Asked as AskedResources
from pipeline.sweep.supervise import Means

Model = TypeVar("Model", bound=BaseModel)

_LAUNCHER, _RESOURCES = "launcher.", "resources."


def add_means(parser: argparse.ArgumentParser) -> None:
    """The arguments that `means_of` reads."""
    parser.add_argument(
        "--launcher", default="local", metavar="NAME", help=f"{', '.join(LAUNCHERS)} (local)"
    )
    parser.add_argument(
        "--workers", type=count, metavar="N", help="jobs at a time (1 on one machine)"
    )
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first failure")


def means_of(args: argparse.Namespace) -> Means:
    """Take what is about the means out of the overrides. Raises RecipeError with all that is wrong."""
    launcher = launcher_of(args.launcher)
    words: list[str] = args.overrides
    args.overrides = [w for w in words if not w.startswith((_LAUNCHER, _RESOURCES))]
    problems: list[Problem] = []
    options = _read(launcher.options, words, _LAUNCHER, problems)
    resources = _read(AskedResources, words, _RESOURCES, problems)
    if options is None or resources is None:
        raise RecipeError(problems)
    return Means(launcher, options, resources, args.workers, args.fail_fast)


def count(text: str) -> int:
    """A number from 1 on, as an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, got {text!r}")
    return int(text)


def _read(
    model: type[Model], words: list[str], prefix: str, problems: list[Problem]
) -> Model | None:
    """The words that begin with `prefix` as settings; None when they are wrong, which `problems` then say."""
    pairs = [word.removeprefix(prefix).partition("=") for word in words if word.startswith(prefix)]
    try:
        return model.model_validate({key: yaml.safe_load(value) for key, _, value in pairs})
    except ValidationError as error:
        for wrong in error.errors():
            key = str(wrong["loc"][0])
            unknown = wrong["type"] == "extra_forbidden"
            what = f"is not known here: {', '.join(model.model_fields) or 'there are none'}"
            fix = nearest(key, model.model_fields) if unknown else None
            said = what if unknown else f"{wrong['msg'].lower()}, got {wrong['input']!r}"
            problems.append(Problem(said, fix, f"{prefix}{key}", COMMAND_LINE))
        return None
