"""What a sweep will do, found out before anything runs: its jobs, and which of them are done already."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.checkpoint.source import Source
from pipeline.errors import COMMAND_LINE, InputError, MergelineError, Problem, RecipeError
from pipeline.jobs import load_request
from pipeline.manifest import read_manifest
from pipeline.plan import Plan, make_plan, sources_of
from pipeline.recipe import hydra_app
from pipeline.recipe.grid import Job, jobs_of, quoted
from pipeline.recipe.hydra_app import Request
from pipeline.recipe.model import Recipe
from pipeline.report.units import size
from pipeline.sweep.done import why_again
from pipeline.sweep.ledger import JobLine, Ledger, attempts
from pipeline.sweep.rows import read_rows

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Asked:
    """A sweep as the command line asks for it."""

    request: Request
    rows: Path | None = None
    """A file with one row of overrides for each job."""
    zipped: bool = False
    force: bool = False
    """Do again what is done."""
    search: tuple[str, ...] = ()
    """What a search varies, and what it is after."""
    launcher: str = "local"
    """The engine that its jobs are tasks of."""


@dataclass(frozen=True)
class PlannedJob:
    """One job, checked."""

    own: tuple[str, ...]
    """The overrides that set it apart, as typed."""
    request: Request
    recipe: Recipe
    sources: tuple[Source, ...]
    plan: Plan | None
    """None when there is nothing to do."""
    why: str
    """Why it runs, or that it is done."""
    leftovers: tuple[str, ...] = ()
    """Folders of attempts that failed, which a new one replaces."""

    @property
    def folder(self) -> str:
        """Its name in the sweep's folder."""
        return self.recipe.run_dir.name


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that can run."""

    folder: Path
    recipe: str
    overrides: tuple[str, ...]
    jobs: tuple[PlannedJob, ...]
    ledger_bytes: int
    """Size of the ledger that it rests on."""

    @property
    def to_do(self) -> tuple[PlannedJob, ...]:
        return tuple(job for job in self.jobs if job.plan is not None)

    @property
    def bytes(self) -> int:
        """About what the jobs that have to run will write."""
        return sum(
            output.bytes or 0 for job in self.to_do if job.plan for output in job.plan.outputs
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        return {
            "recipe": self.recipe,
            "folder": str(self.folder),
            "jobs": [
                {
                    "overrides": list(job.own),
                    "folder": job.folder,
                    "why": job.why,
                    "plan": job.plan and job.plan.to_dict(),
                }
                for job in self.jobs
            ],
            "bytes": self.bytes,
        }


def prepare(asked: Asked, advance: Callable[[float], None] = lambda count: None) -> SweepPlan:
    """Compose and plan every job. Reads no weights but those of jobs that were done, to see that they are.

    `advance` is told of each job. Raises RecipeError with all that is wrong, with any of them.
    """
    rows = read_rows(asked.rows) if asked.rows else ()
    grid = jobs_of(asked.request, zipped=asked.zipped, rows=rows)
    folder = sweep_folder(asked)
    ledger = Ledger(folder)
    ledger_bytes = ledger.bytes()
    known = attempts(ledger.read())
    found: dict[Problem, list[str]] = {}
    jobs: list[PlannedJob] = []
    for job in grid:
        try:
            jobs.append(plan_job(job, asked, folder, known))
        except RecipeError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(" ".join(job.own))
        advance(1)
    problems = [_in_jobs(problem, names, len(grid)) for problem, names in found.items()]
    problems += _twice(jobs)
    plan = SweepPlan(
        folder, asked.request.path.stem, asked.request.overrides, tuple(jobs), ledger_bytes
    )
    if not problems:
        problems += _without_room(plan)
    if problems:
        raise RecipeError(problems)
    return plan


def sweep_folder(asked: Asked) -> Path:
    """The folder that the command names; without, one that the same command will find again."""
    request = asked.request
    named = hydra_app.sweep_dir(request)
    if any(text.startswith("hydra.sweep.dir=") for text in request.overrides):
        return named
    rows = str(asked.rows.absolute()) if asked.rows else None
    what = [str(request.path.absolute()), sorted(request.overrides), asked.zipped, rows]
    what += [sorted(asked.search)] if asked.search else []
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    return named.with_name(f"{named.name}-{digest[:8]}")


def plan_job(
    job: Job, asked: Asked, folder: Path, known: dict[str, dict[str, JobLine]]
) -> PlannedJob:
    """Compose and plan one job; `known` are the attempts in the sweep's ledger. Raises RecipeError."""
    request = _into(job, asked.request, f"{folder}/{_name(job)}-${{mergeline.fingerprint:}}")
    recipe = load_request(request)
    if recipe.workers == asked.launcher:
        what = f"jobs that are tasks of {asked.launcher} would hold the CPUs that their own tasks wait for"
        fix = "leave it out, or use another --launcher"
        raise RecipeError([Problem(what, fix, "workers", recipe.place("workers"))])
    sources = _sources(recipe)
    before = known.get(recipe.fingerprint, {})
    finished = [name for name in before if _is_done(folder / name)]
    why = "new"
    if before and not finished:
        status = list(before.values())[-1].status
        why = "was cut short" if status == "running" else f"{status} before"
    for name in finished[-1:]:
        again = why_again(folder / name, recipe.fingerprint, sources)
        if again is None and not asked.force:
            there = replace(recipe, run_dir=folder / name)
            return PlannedJob(job.own, request, there, sources, None, "done")
        why = again or "done before"
    base, count = recipe.run_dir.name, 1
    while recipe.run_dir.name in before or _has_begun(recipe.run_dir):
        count += 1
        request = _into(job, asked.request, f"{folder}/{base}-{count}")
        recipe = load_request(request)
    leftovers = tuple(name for name in before if name not in finished)
    return PlannedJob(job.own, request, recipe, sources, make_plan(recipe), why, leftovers)


def _into(job: Job, request: Request, run_dir: str) -> Request:
    return replace(request, overrides=(*job.overrides, f"hydra.run.dir={quoted(run_dir)}"))


def _name(job: Job) -> str:
    """What sets the job apart, as far as it can stand in the name of a folder."""
    values = (text.partition("=")[2].strip("'\"").rstrip("/") or text for text in job.own)
    words = (re.sub(r"[^\w.+-]+", "-", value.rpartition("/")[2]).strip("-.") for value in values)
    return "_".join(filter(None, words))[:_LONGEST_NAME] or "job"


def _sources(recipe: Recipe) -> tuple[Source, ...]:
    try:
        return sources_of(recipe)
    except MergelineError:
        return ()  # planning says what is wrong with them


def _is_done(folder: Path) -> bool:
    try:
        return read_manifest(folder).status == "done"
    except InputError:
        return False


def _has_begun(folder: Path) -> bool:
    """Whether there is more than weights that were written ahead, which are hidden."""
    return folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def _in_jobs(problem: Problem, names: list[str], of: int) -> Problem:
    if len(names) == of:
        return problem
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return replace(problem, what=f"{problem.what} (with {names[0]}{more})")


def _twice(jobs: Sequence[PlannedJob]) -> list[Problem]:
    first: dict[str, PlannedJob] = {}
    problems = []
    for job in jobs:
        other = first.setdefault(job.recipe.fingerprint, job)
        if other is not job:
            what = f"{' '.join(job.own)} and {' '.join(other.own)} are the same job"
            problems.append(Problem(what, "leave one of them out", None, COMMAND_LINE))
    return problems


def _without_room(plan: SweepPlan) -> list[Problem]:
    free = min((job.plan.free_disk_bytes for job in plan.to_do if job.plan), default=0)
    if plan.bytes <= free:
        return []
    what = f"the jobs need about {size(plan.bytes)} on the disk of {plan.folder}, and {size(free)} are free"
    fix = "free some space, or choose another disk with hydra.sweep.dir=DIR"
    return [Problem(what, fix, "hydra.sweep.dir", COMMAND_LINE)]
