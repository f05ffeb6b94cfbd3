"""What `mergeline run` does: check everything, choose a folder, let Hydra run one job or a grid."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import COMMAND_LINE, MergelineError, Problem, RecipeError
from pipeline.recipe.model import Recipe

if TYPE_CHECKING:
    from pipeline.manifest import Manifest
    from pipeline.plan import Plan
    from pipeline.recipe.hydra_app import Request

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How one job of a grid ended."""

    overrides: tuple[str, ...]
    status: Status
    run_dir: str
    why: str = ""


def run_one(request: Request, *, quiet: bool = False) -> Manifest:
    """Run a recipe once. Raises RecipeError before anything is run when something is wrong."""
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
    result: Manifest = hydra_app.run(asked, lambda _: run(recipe, plan, make_console(quiet)))
    return result


def run_many(request: Request, *, quiet: bool = False, debug: bool = False) -> list[Outcome]:
    """Run the grid of jobs that the overrides span. A job that fails takes no other down.

    Every job is checked before the first one runs; raises RecipeError when one of them is wrong.
    """
    from pipeline.recipe import hydra_app

    _check_grid(request)
    folder = wanted = hydra_app.sweep_dir(request)
    if not _says(request, "hydra.sweep.dir"):
        folder = claim(wanted)
        if folder != wanted:
            request = replace(request, overrides=(*request.overrides, f"hydra.sweep.dir={folder}"))
    outcomes: list[Outcome] = hydra_app.multirun(request, Job(request, quiet, debug))
    return outcomes or recorded(folder)


@dataclass(frozen=True)
class Job:
    """One job of a grid, as Hydra calls it. Catches everything, so that the other jobs go on."""

    request: Request
    quiet: bool
    debug: bool

    def __call__(self, config: Any) -> Outcome:
        from pipeline.plan import make_plan
        from pipeline.recipe import hydra_app
        from pipeline.report.terminal import make_console
        from pipeline.run import run

        overrides: tuple[str, ...] = ()
        run_dir = str(config.run.dir)
        try:
            recipe = hydra_app.recipe_of(config, self.request)
            overrides = recipe.overrides
            record = run(recipe, make_plan(recipe), make_console(self.quiet))
        except Exception as error:
            why = (
                str(error)
                if isinstance(error, MergelineError)
                else f"{type(error).__name__}: {error}"
            )
            if self.debug:
                traceback.print_exc()
            return Outcome(overrides, "failed", run_dir, why)
        if record.status == "interrupted":
            raise KeyboardInterrupt
        status: Status = "done" if record.status == "done" else "failed"
        return Outcome(overrides, status, run_dir, record.error.what if record.error else "")


def recorded(folder: Path) -> list[Outcome]:
    """How the jobs of a grid ended by what they wrote, for sweepers that do not return it."""
    from pipeline.manifest import FILE_NAME, read_manifest

    outcomes = []
    for file in sorted(folder.glob(f"*/{FILE_NAME}"), key=lambda file: file.stat().st_ctime):
        record = read_manifest(file)
        status: Status = "done" if record.status == "done" else "failed"
        why = record.error.what if record.error else ""
        outcomes.append(Outcome(tuple(record.overrides), status, record.run_dir, why))
    return outcomes


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


def _planned(request: Request) -> tuple[Recipe, Plan]:
    from pipeline.plan import make_plan

    recipe = load_request(request)
    return recipe, make_plan(recipe)


def load_request(request: Request) -> Recipe:
    """The recipe of a request for one run."""
    return request.load()[0]


def _check_grid(request: Request) -> None:
    from pipeline.recipe import hydra_app

    jobs = hydra_app.grid(request)
    common: set[str] = set.intersection(*map(set, jobs)) if jobs else set()
    found: dict[Problem, list[str]] = {}
    for job in jobs:
        try:
            _planned(replace(request, overrides=tuple(job)))
        except RecipeError as error:
            for problem in error.problems:
                own = [hydra_app.as_typed(text) for text in job[:-1] if text not in common]
                found.setdefault(problem, []).append(" ".join(own))
    if found:
        raise RecipeError([_in_jobs(problem, names, len(jobs)) for problem, names in found.items()])


def _in_jobs(problem: Problem, names: list[str], of: int) -> Problem:
    if len(names) == of:
        return problem
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return replace(problem, what=f"{problem.what} (with {names[0]}{more})")


def _says(request: Request, key: str) -> bool:
    return any(text.startswith(f"{key}=") for text in request.overrides)
