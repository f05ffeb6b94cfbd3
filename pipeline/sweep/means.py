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
from pipeline.sweep.search import Goal
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
    parser.add_argument(
        "--no-fuse", action="store_true", help="let each job read the base for itself"
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """The arguments that `goal_of` reads, and `--search`."""
    parser.add_argument(
        "--search", nargs="+", action="extend", metavar="KEY=VALUES", help="what a search varies"
    )
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--minimize", metavar="FIGURE", help="find the least, as of evaluate.loss")
    goal.add_argument("--maximize", metavar="FIGURE", help="find the greatest")
    parser.add_argument("--trials", type=count, default=40, metavar="N", help="in all (40)")


def goal_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Goal:
    """What a search is after. Ends the program when it does not go with the other arguments."""
    metric = args.minimize or args.maximize
    if not metric:
        parser.error("--search goes with --minimize FIGURE or --maximize FIGURE")
    for name in ("jobs", "zip", "force"):
        if getattr(args, name):
            parser.error(f"--{name} does not go with --search")
    return Goal(metric, maximize=args.maximize is not None, trials=args.trials)


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
    return Means(launcher, options, resources, args.workers, args.fail_fast, not args.no_fuse)


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
