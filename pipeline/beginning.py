"""The manifest of a run that has not done anything yet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import manifest
from pipeline.branches import Branch, belongs
from pipeline.checkpoint.hashes import hash_file
from pipeline.manifest import ErrorRecord, FileRecord, Manifest, StepRecord
from pipeline.recipe.model import Recipe, StepCall

if TYPE_CHECKING:
    from pipeline.plan import Plan


def first_manifest(recipe: Recipe, plan: Plan) -> Manifest:
    """What is known of a run before its first step. Branches that the plan refuses have failed already."""
    settings = recipe.resolved.get("steps", {})
    does = {step.id: step.does for step in plan.steps}
    record = Manifest(
        recipe=recipe.name,
        recipe_file=str(recipe.path),
        recipe_blake3=hash_file(recipe.path),
        run_dir=str(recipe.run_dir.absolute()),
        started=now(),
        overrides=list(recipe.overrides),
        resolved=dict(recipe.resolved),
        fingerprint=recipe.fingerprint,
        engine=plan.engine,
        tags=list(recipe.tags),
        steps=[
            StepRecord(
                id=c.id,
                step=c.step.name,
                preset=c.preset,
                settings=dict(settings.get(c.id) or {}),
                does=does.get(c.id, c.step.summary),
            )
            for c in recipe.steps
        ],
        inputs=[
            FileRecord(
                path=told_path(source.folder / name, recipe.run_dir) if source.folder else name,
                bytes=size,
                repo=source.repo,
                commit=source.commit,
            )
            for source in plan.sources
            for name, size in sorted(source.files.items())
        ],
        warnings=list(plan.warnings),
        versions=manifest.versions(),
        machine=manifest.machine(),
        git_commit=manifest.git_commit(Path.cwd()),
    )
    _refuse(recipe, plan, record)
    return record


def _refuse(recipe: Recipe, plan: Plan, record: Manifest) -> None:
    steps = list(zip(recipe.steps, record.steps, strict=True))
    for number, (call, entry) in enumerate(steps, start=1):
        problem = plan.refused.get(call.id)
        if problem is not None and entry.status == "waiting":
            place = None if problem.place is None else str(problem.place)
            entry.error = ErrorRecord(
                type="Refused", what=problem.what, where=place, fix=problem.fix
            )
            entry.status = "failed"
            record.error = record.error or entry.error
            skip(steps[number:], call.branch)
    going = {step.id for step in plan.steps}
    for _, entry in steps:
        if entry.status == "waiting" and entry.id not in going:  # before a step that was refused
            entry.status = "skipped"


def skip(later: Iterable[tuple[StepCall, StepRecord]], branch: Branch) -> None:
    """Leave out what comes after a step that failed, in its branch."""
    for call, entry in later:
        if belongs(call.branch, branch) and entry.status == "waiting":
            entry.status = "skipped"


def told_path(path: Path, run_dir: Path) -> str:
    """As it is found again from the run's folder, when it lies in there; else absolute."""
    path, run_dir = path.absolute(), run_dir.absolute()
    return str(path.relative_to(run_dir)) if path.is_relative_to(run_dir) else str(path)


def now() -> datetime:
    return datetime.now(UTC)
