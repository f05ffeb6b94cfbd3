"""What `mergeline run` does: check everything, choose a folder, let Hydra run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import memory
from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.recipe.model import Recipe

if TYPE_CHECKING:
    from pipeline.manifest import Manifest
    from pipeline.recipe.hydra_app import Request
    from pipeline.run import Console


def run_one(request: Request, *, quiet: bool = False) -> Manifest:
    """Run a recipe once. Raises RecipeError before anything is run when something is wrong."""
    with memory.collecting_nothing():
        from pipeline.plan import make_plan
        from pipeline.recipe import hydra_app
        from pipeline.report.terminal import make_console
        from pipeline.run import run

        recipe, asked = request.load()
        plan = make_plan(recipe)
    if _says(request, "hydra.run.dir"):
        with _writing(recipe.run_dir):
            recipe.run_dir.mkdir(parents=True, exist_ok=True)
    else:
        # Claimed by making it, so that two runs that start in one second never share a folder.
        folder = claim(recipe.run_dir)
        if folder != recipe.run_dir:
            request = replace(request, overrides=(*request.overrides, f"hydra.run.dir={folder}"))
            recipe, asked = request.load()
            plan = make_plan(recipe)
    console = make_console(quiet)
    try:
        result: Manifest = hydra_app.run(asked, lambda _: run(recipe, plan, console))
    finally:
        _write_page(recipe.run_dir, console)
    return result


def _write_page(run_dir: Path, console: Console) -> None:
    """The page of a run, whichever way it ended. One that cannot be written loses no run."""
    try:
        with memory.collecting_nothing():
            from pipeline.report.page import write_page

            write_page(run_dir)
    except Exception as error:
        console.warn(f"the run's page could not be written: {error}")


def claim(folder: Path) -> Path:
    """Make a new folder of this name, or of the next one that is free: `<name>-2`, `<name>-3`, ..."""
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free, count = folder, 1
        while True:
            try:
                free.mkdir()
                return free
            except FileExistsError:
                count += 1
                free = folder.with_name(f"{folder.name}-{count}")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the run's folder {folder} cannot be made: {error.strerror}"
        fix = "choose another with hydra.run.dir=DIR"
        raise RecipeError([Problem(what, fix, "hydra.run.dir", COMMAND_LINE)]) from error


def load_request(request: Request) -> Recipe:
    """The recipe of a request for one run."""
    return request.load()[0]


def _says(request: Request, key: str) -> bool:
    return any(text.startswith(f"{key}=") for text in request.overrides)
